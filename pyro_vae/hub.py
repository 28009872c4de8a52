"""Sharing a model on the Hugging Face Hub: its files, and a card that is made of them.

:func:`push` sends what :func:`pyro_vae.save` writes, safetensors and JSON, with a ``README.md`` of
what the model is, how it is loaded, and how good it is. Of a run folder, what the run records goes
with it, without paths of the machine and without what values of columns were like; the data,
checkpoints and the state of the optimiser never do. ``pv.load("hf://owner/name")`` reads it again.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from pyro_vae._errors import as_path, expected
from pyro_vae._hub import (
    MODEL,
    RECORD,
    Address,
    branch,
    client,
    is_address,
    name_of,
    repository,
    without_paths,
)
from pyro_vae.checkpoint import read_bytes, read_json, save, size_of, write_bytes, write_json
from pyro_vae.criticism import Calibration, Checks
from pyro_vae.evaluation import Scores
from pyro_vae.programs import VAE, Program
from pyro_vae.report.card import card
from pyro_vae.training.run import Run

__all__ = ["address_to", "push", "staged"]

_PICTURES = ("samples.png", "reconstructions.png", "latent.png", "curves.png", "pairs.png")
_PAGE = "report.html"
_CARD = "README.md"
_OURS = (*MODEL, *RECORD, *_PICTURES, _PAGE, _CARD)
_LARGEST_CONFIG = 2**20  # bytes


def push(
    model: VAE | Program | Run[Any] | str | Path,
    repo: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    license: str | None = None,
    model_only: bool = False,
    pictures: bool = False,
    page: bool = False,
    scores: Scores | None = None,
    checks: Checks | None = None,
    calibration: Calibration | None = None,
) -> str:
    """Shares a model on the Hugging Face Hub, with a model card.

    One commit has exactly the files that are named below; what an earlier push left of these is
    removed by it, and files of other names stay. Data, checkpoints and the state of the optimiser
    are never sent. The package ``huggingface_hub`` is needed: ``pip install 'pyro-vae[hub]'``.

    Args:
        model: A fitted model, or a run, or the folder that :func:`pyro_vae.save`,
            :func:`pyro_vae.fit` or ``pyro-vae fit`` wrote.
        repo: Where to, as ``owner/name``; made if it is not there. Refused is one that holds
            something else than a model of this package.
        private: Whether a repository that is made is private; None is what is the default of the
            account, which is public if nobody changed it. Asked for a private one, a public one
            that is there already is refused.
        revision: A branch, made if it is not there; the main one if not given.
        token: Of an account that may write there. If not given, that of ``hf auth login`` or of the
            environment variable ``HF_TOKEN``.
        license: The identifier that the card states, such as ``apache-2.0``; none if not given.
        model_only: Whether of a run folder only the model is sent. What else there is: scores,
            history and settings, and the record of its data by which commands read new data as the
            run did: names, kinds, units and levels of columns, location and scale of conditions,
            and fingerprints.
        pictures: Whether also the pictures of a run folder are sent, which show observations.
        page: Whether also ``report.html`` is sent, which shows observations.
        scores: For the card; those of the run folder if not given.
        checks: For the card, of :func:`pyro_vae.criticism.check`; no file has them.
        calibration: For the card, of :func:`pyro_vae.criticism.calibrate`; no file has it.

    Returns:
        The address of the repository in a browser.

    Raises:
        ValueError: If the folder is none of this package, unfinished or damaged, an argument is not
            what it should be, the package is missing, or the account may not write there.
        ConnectionError: If the Hub cannot be reached.
    """
    address = address_to(repo, revision)
    if private not in (None, True, False):
        raise expected("private", "True, False or None", private)
    # Before anything is made, as that takes a while.
    with client("repo", address):
        pass
    about: Any = {"checks": checks, "calibration": calibration, "license": license}
    chosen: Any = {"model_only": model_only, "pictures": pictures, "page": page}
    with staged(model, address, scores=scores, **chosen, **about) as folder:
        return _sent(folder, address, private, token)


def address_to(repo: object, revision: object = None) -> Address:
    """Returns where a model goes.

    Args:
        repo: As of :func:`push`.
        revision: As of :func:`push`.

    Raises:
        ValueError: If it is no name of a repository or of a branch.
    """
    at = None if revision is None else branch("revision", revision)
    return Address(repository("repo", repo), at)


@contextmanager
def staged(
    model: VAE | Program | Run[Any] | str | Path,
    address: Address,
    *,
    model_only: bool = False,
    pictures: bool = False,
    page: bool = False,
    scores: Scores | None = None,
    **about: Any,
) -> Iterator[Path]:
    """Gives a folder with exactly the files that are shared, the card among them.

    Args:
        model: As of :func:`push`.
        address: Where they will be.
        model_only: As of :func:`push`.
        pictures: As of :func:`push`.
        page: As of :func:`push`.
        scores: As of :func:`push`.
        about: What the card says besides.

    Raises:
        ValueError: If the folder is none of this package, unfinished or damaged.
    """
    if isinstance(model, Run):
        model = model.vae if model.out is None else model.out
    with tempfile.TemporaryDirectory(prefix="pyro-vae-") as within:
        folder = Path(within)
        if isinstance(model, VAE | Program):
            for name, asked in (("pictures", pictures), ("page", page)):
                if asked:
                    raise expected(name, "False, as a model has no folder with any", asked)
            save(model, folder / "model")
            folder = folder / "model"
        else:
            if is_address(model):
                raise expected("model", "a model, a run or a folder of this machine", model)
            source = as_path("model", model)
            _take_model(source, folder)
            if not model_only:
                for name in RECORD:
                    _take_record(source / name, folder / name)
            _take(source, _PICTURES if pictures else (), folder, "pictures")
            _take(source, (_PAGE,) if page else (), folder, "page")
        summary = None if scores is None else scores.summary()
        if summary is None and (path := folder / "scores.json").exists():
            summary = read_json(path, base_measure=dict)
        shown = [name for name in _PICTURES if (folder / name).exists()]
        text = card(folder, address, scores=summary, pictures=shown, **about)
        (folder / _CARD).write_text(text, encoding="utf-8")
        yield folder


def _take_model(source: Path, folder: Path) -> None:
    """Copies a saved model, whose weights are those that its description is of."""
    if not source.is_dir():
        raise expected("model", "a model, a run, or the folder of one", str(source))
    described = read_json(source / MODEL[0])
    if not isinstance(described.get("vae", described.get("program")), dict):
        raise expected("model", f"a folder whose {MODEL[0]} is of a model", str(source))
    shutil.copyfile(source / MODEL[0], folder / MODEL[0])
    write_bytes(folder / MODEL[1], read_bytes(source / MODEL[1], described.get("sha256")))


def _take_record(source: Path, target: Path) -> None:
    """Copies what a run records, if it does, without paths and values."""
    if not source.exists():
        return
    if source.suffix == ".json":
        write_json(target, _CLEANED.get(source.name, dict)(read_json(source)))
    else:
        if size_of(source) > _LARGEST_CONFIG:
            raise expected("model", f"at most {_LARGEST_CONFIG:,} bytes of YAML", str(source))
        try:
            content = yaml.safe_load(source.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise expected("model", f"options, key by key, in {source.name}", str(source.parent))
        target.write_text(yaml.safe_dump(_of_config(content), sort_keys=False), encoding="utf-8")


def _take(source: Path, names: tuple[str, ...], folder: Path, option: str) -> None:
    """Copies plain files, of which there has to be one."""
    there = [name for name in names if (source / name).exists()]
    if names and not there:
        raise expected(option, f"a folder with {' or '.join(names)}", str(source))
    for name in there:
        size_of(source / name)  # a link that leads out of the folder is refused
        shutil.copyfile(source / name, folder / name)


def _of_schema(content: Mapping[str, Any]) -> dict[str, Any]:
    """Takes out why a column is of its kind, which tells of its values."""
    columns = content.get("columns")
    if not isinstance(columns, dict):
        return dict(content)
    kept = {
        name: {key: value for key, value in own.items() if key not in ("reason", "warning")}
        if isinstance(own, dict)
        else own
        for name, own in columns.items()
    }
    return {**{key: value for key, value in content.items() if key != "notes"}, "columns": kept}


def _of_config(content: Mapping[str, Any]) -> dict[str, Any]:
    named = {key: name_of(content[key]) for key in ("data", "schema") if key in content}
    kept = {key: value for key, value in content.items() if key not in ("data_root", "out")}
    return kept | {key: value for key, value in named.items() if key in kept}


_CLEANED: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "data.json": without_paths,
    "schema.json": _of_schema,
}


def _sent(folder: Path, address: Address, private: bool | None, token: str | None) -> str:
    """Sends a folder as one commit, and returns the address of the repository in a browser."""
    names = sorted(path.name for path in folder.iterdir())
    about = {"repo_id": address.repo, "token": token}
    with client("repo", address) as hub:
        api = hub.HfApi()
        url = str(api.create_repo(**about, private=private, exist_ok=True))
        if address.revision is not None:
            api.create_branch(**about, branch=address.revision, exist_ok=True)
        found = api.model_info(**about, revision=address.revision)
    there = {each.rfilename for each in found.siblings or ()} - {".gitattributes", _CARD}
    if there and MODEL[0] not in there:
        what = "a new repository, or one with a model of pyro-vae"
        raise expected("repo", what, f"{address} with {min(there)}")
    if private and not found.private:
        what = "a private repository: make it so in its settings, or choose another name"
        raise expected("private", what, f"{address}, which is public")
    with client("repo", address) as hub:
        hub.HfApi().upload_folder(
            **about,
            folder_path=str(folder),
            revision=address.revision,
            commit_message="Share a model of pyro-vae",
            allow_patterns=names,
            delete_patterns=[name for name in _OURS if name not in names],
        )
    return url if address.revision is None else f"{url}/tree/{address.revision}"
