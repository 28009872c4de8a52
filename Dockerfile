# The commands of the README, each in a stage:
#
#     docker build -t pyro-vae . && docker run --rm -v "$PWD/runs:/pyro-vae/runs" pyro-vae
#     docker build --target test .
#
# For PyTorch without the libraries of GPUs:
# --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
FROM python:3.13-slim AS package
# Steps are compiled by a C++ compiler.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1
WORKDIR /pyro-vae
COPY . .
RUN pip install .

FROM package AS test
RUN pip install '.[test]' && pytest

FROM package
CMD ["pyro-vae", "fit", "digits"]
