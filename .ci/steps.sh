# What the scripts beside this one share; sourced from the root of the repository. Everything made
# lies in a temporary folder, `$scratch`, that is removed in the end.

scratch=$(mktemp -d)
trap '{ kill $(jobs -p) || true; } 2>/dev/null; rm -rf "$scratch"' EXIT
export PIP_QUIET=2 PIP_DISABLE_PIP_VERSION_CHECK=1
export CI=${CI:-1} # torch's compiler checks more where it is set: the same wherever this runs
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
second_half="pytest -m 'long and not slow'" # of the tests, beside what `pytest` alone runs
export PYTEST_ADDOPTS="--durations=20 --durations-min=3" # for `pytest` alone: what should be `long`

step() { # TITLE COMMAND...: runs the command under a header that ends with its seconds
  local title=$1 began=$SECONDS
  shift
  printf '\n===== %s\n' "$title"
  "$@"
  printf '===== %s: %d s\n' "$title" $((SECONDS - began))
}

find_python() { # 3.X: prints the path of such an interpreter that can make environments
  local candidate
  for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
    if "$candidate" -c 'import ensurepip' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

enter_environment() { # PYTHON: makes a fresh environment in place of the last one
  rm -rf "$scratch/venv"
  "$1" -m venv "$scratch/venv"
  PATH="$scratch/venv/bin:${PATH#"$scratch/venv/bin:"}"
  hash -r
  python --version
}

readme_command() { # PATTERN: the one command line of the README that matches
  local found
  found=$(grep -E "^pip install .*$1" README.md)
  if [ "$(wc -l <<<"$found")" != 1 ]; then
    echo "README.md: expected one command matching '$1', got: $found" >&2
    return 1
  fi
  echo "$found"
}
