"""The pictures of docs/gallery.md: models of handwritten digits and of a table.

python experiments/gallery.py           # writes results/gallery/*.png
python experiments/gallery.py --smoke   # an epoch each, no pictures
"""

from __future__ import annotations

import io

import common
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_wine

import pyro_vae as pv
from pyro_vae.evaluation import rate_distortion
from pyro_vae.plots._canvas import figure_of

FOLDER = common.RESULTS / "gallery"


def fitted(
    data: pv.data.Dataset,
    epochs: int,
    prior: pv.priors.Prior,
    guide: pv.guides.Guide,
    likelihood: pv.likelihoods.Likelihood,
    beta: float = 1.0,
) -> pv.Run:
    """Fits a model, the same way each."""
    torch.manual_seed(0)
    vae = pv.VAE(prior, guide, likelihood)
    objective = pv.objectives.ELBO(beta=beta)
    return pv.fit(vae, data, objective=objective, epochs=epochs, lr=3e-3, seed=0, device="cpu")


def save(name: str, axes: Axes | list[Axes]) -> None:
    """Writes the figure of axes, in as few colours as keep it small."""
    content = io.BytesIO()
    figure_of(axes).savefig(content, format="png", dpi=80)
    FOLDER.mkdir(exist_ok=True)
    image = Image.open(content).convert("RGB").quantize(64)
    image.save(FOLDER / f"{name}.png", optimize=True)


def run(smoke: bool) -> None:
    """Fits the models and draws each picture."""
    digits, table = (
        pv.data.load("digits"),
        pv.data.load(load_wine(as_frame=True).frame.drop(columns="target")),
    )
    epochs = 1 if smoke else 40
    shape = digits.event_shape
    binary = pv.likelihoods.Bernoulli(shape)
    normal = fitted(digits, epochs, pv.priors.Normal(8), pv.guides.Normal(8), binary)
    mixture = fitted(
        digits,
        epochs,
        pv.priors.Mixture(2, 10),
        pv.guides.Normal(2),
        pv.likelihoods.Bernoulli(shape),
    )
    plane = fitted(
        digits, epochs, pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli(shape)
    )
    discrete = fitted(
        digits, epochs, pv.priors.Categorical(1, 10), pv.guides.GumbelSoftmax(1, 10),
        pv.likelihoods.Bernoulli(shape),
    )  # fmt: skip
    columns = fitted(
        table, 2 * epochs, pv.priors.Normal(2), pv.guides.Normal(2),
        pv.likelihoods.Normal(table.event_shape),
    )  # fmt: skip
    if smoke:
        return
    vae, x, labels = normal.vae, digits.test, digits.labels["test"]
    save("history", pv.plots.history(normal.history))
    save("samples", pv.plots.samples(vae, num_samples=42, reference=x))
    save("reconstructions", pv.plots.reconstructions(vae, x[:10], name="test data"))
    save("traversal", pv.plots.traversal(vae, x[0], torch.arange(8)))
    save("interpolation", pv.plots.interpolation(vae, x[:4], x[4:8]))
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    both = figure.subplots(1, 2)
    for ax, title, each in zip(both, ("Normal", "Mixture"), (plane, mixture), strict=True):
        pv.plots.latent(each.vae, x, color_by=labels, ax=ax)
        ax.set_title(f"{title} prior: E[z | x] of {len(x)} test data", fontsize=11)
    save("priors", both[0])
    save("discrete", pv.plots.latent(discrete.vae, x, color_by=labels, name="test data"))
    save("checks", pv.plots.checks(pv.criticism.check(vae, x)))
    save("sbc", pv.plots.sbc(pv.criticism.calibrate(vae)))
    save("khat", pv.plots.khat(pv.evaluate(vae, x, num_samples=200)))
    betas = (0.5, 1.0, 4.0)
    sweep = [
        rate_distortion(
            fitted(
                digits, epochs, pv.priors.Normal(8), pv.guides.Normal(8),
                pv.likelihoods.Bernoulli(shape), beta,
            ).vae, x,
        ) for beta in betas
    ]  # fmt: skip
    names = [f"β = {beta:g}" for beta in betas]
    save("rate_distortion", pv.plots.rate_distortion(sweep, names=names))
    seen = table.test
    save("pairs", pv.plots.pairs(columns.vae, seen, count=4, columns=table.schema or table.names))


if __name__ == "__main__":
    run(common.Parser(__doc__, smoke="an epoch each, no pictures").options().smoke)
