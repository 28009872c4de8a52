"""Saving and loading a model: JSON and safetensors, nothing executed."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import secrets
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, overload

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from pyro_vae import guides, likelihoods, missingness, networks, priors
from pyro_vae._bounded import Bounded
from pyro_vae._errors import as_device, as_path, expected, unknown_name
from pyro_vae._hub import LARGEST_JSON, MODEL, local
from pyro_vae._json import loads
from pyro_vae.likelihoods.in_units import work_as_before
from pyro_vae.programs import VAE, Amortized, Program
from pyro_vae.programs.composition import composed_of

__all__ = [
    "CHECKPOINTS",
    "SCHEMA",
    "check_kinds",
    "load",
    "load_weights",
    "model_spec",
    "of_known_schema",
    "read_bytes",
    "read_json",
    "save",
    "size_of",
    "tensors_of",
    "write_bytes",
    "write_json",
    "write_tensors",
    "written",
]

log = logging.getLogger("pyro_vae")

SCHEMA = 1  # of every file
CHECKPOINTS = "checkpoints"  # the folder that a run has until it is finished
_LEAST = 2**24  # numbers that any model may have while it is built
_HEADER = 2**20  # bytes
_MOST_VALUES, _MOST_PARTS = 2**22, 2**12
_PACKAGES = {"guides": guides, "likelihoods": likelihoods, "networks": networks, "priors": priors}
_PACKAGES |= {"missingness": missingness}
_OPTIONS = {"cond_size", "show_mask", "standardize"}
_PARTS = ("prior", "guide", "likelihood", "encoder", "decoder")
_FURTHER = ("missingness",)  # of models that have one
_NETWORKS = ("encoder", "decoder")

Classes = Mapping[str, Callable[..., nn.Module]]


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file as a whole: beside, to the disk, then renamed."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    # Made as any file is, so that the umask says who may read it; never through a link.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    handle = os.open(beside, flags, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # which a write does not know
        raise
    written(path.parent)


def written(folder: Path) -> None:
    """Returns when the names in a folder are on the disk, as far as the system can tell."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object and its schema as a whole; NaN and infinities are refused."""
    content = {"schema": SCHEMA, **content}
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Writes a safetensors file as a whole, and returns its SHA-256."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = tensors_to_bytes(plain, {"schema": str(SCHEMA)})
    write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def model_spec(vae: Amortized) -> dict[str, Any]:
    """Returns how a model is built: the class and the arguments of each part.

    Of a pair of programs no file has more than what describes it.

    Raises:
        ValueError: If an argument of a part cannot be written as JSON.
    """
    if isinstance(vae, Program):
        return vae.spec()
    if not isinstance(vae, VAE):
        return {"class": type(vae).__name__}
    return {name: _spec(part) for name, part in composed_of(vae).items()}


def save(vae: Amortized, folder: str | Path) -> Path:
    """Writes ``model.json`` and ``model.safetensors``.

    Args:
        vae: The model. Its parts must have been built from plain arguments. Of a network of your
            own that takes arguments no file has them: a warning names how to load it. Of a
            :class:`pyro_vae.Program` a file has the parameters, and one simulated observation.
        folder: Where to; made if it does not exist.

    Returns:
        The folder.

    Raises:
        ValueError: If the folder holds a model already, an argument of a part cannot be written
            as JSON, or the model is one at a condition, whose networks no file can rebuild.
    """
    if not isinstance(vae, VAE | Program):
        raise expected("vae", "a VAE, or a Program", vae)
    if isinstance(vae, VAE) and vae.fixed_cond:
        raise expected("vae", "the model with conditions, of which `at` gives a copy", "the copy")
    folder = as_path("folder", folder)
    if (folder / "model.json").exists():
        raise expected("folder", "one that holds no model yet", str(folder))
    if isinstance(vae, Program):
        state = vae.state_to_write()
        folder.mkdir(parents=True, exist_ok=True)
        digest = write_tensors(folder / "model.safetensors", state)
        write_json(folder / "model.json", {"program": vae.spec(), "sha256": digest})
        return folder
    specs = model_spec(vae)
    for name in _NETWORKS:
        if not _is_rebuilt(network := getattr(vae, name)):
            kind = type(network).__name__
            log.warning("`%s`: no file has the arguments of a %s: `pv.load(folder, %s=...)` takes "
                        "one that is built alike", name, kind, name)  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    digest = write_tensors(folder / "model.safetensors", vae.state_dict())
    description = {"vae": specs, "options": _options(vae), "sha256": digest}
    write_json(folder / "model.json", description)
    return folder


@overload
def load(
    folder: str | Path,
    classes: Classes | None = None,
    device: torch.device | str | None = None,
    *,
    program: Program,
) -> Program: ...


@overload
def load(
    folder: str | Path,
    classes: Classes | None = None,
    device: torch.device | str | None = None,
    *,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    program: None = None,
) -> VAE: ...


def load(
    folder: str | Path,
    classes: Classes | None = None,
    device: torch.device | str | None = None,
    *,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    program: Program | None = None,
) -> VAE | Program:
    """Rebuilds a model that :func:`save` wrote.

    Names are looked up in the package and in ``classes``; nothing is imported because a file
    says so.

    Args:
        folder: The folder; or ``hf://owner/name``, with ``@revision`` if it is not to be the main
            branch, for one that :func:`pyro_vae.push` shared.
        classes: Your own parts and networks by class name. A network that is no
            :class:`pyro_vae.networks.Network` is called without arguments.
        device: Where to put it; the CPU if not given.
        encoder: A network that is built as the encoder was, and that the weights are put into:
            for one of your own that takes arguments, such as an ``nn.Sequential``.
        decoder: The same of the decoder.
        program: The pair that was saved, built anew, which takes over the parameters: no file has
            the code of a :class:`pyro_vae.Program`.

    Returns:
        The model, in ``eval`` mode.

    Raises:
        ValueError: If a file is missing, damaged or names an unknown class, a network is built
            otherwise than the one that was saved, or this machine has no such device.
        ConnectionError: If the Hub cannot be reached, and the files were not fetched before.
    """
    built: dict[str, Any] = {"encoder": encoder, "decoder": decoder}
    built = {name: network for name, network in built.items() if network is not None}
    for name, network in built.items():
        if not isinstance(network, nn.Module):
            raise expected(name, "a network, built as the one that was saved", network)
    folder = as_path("folder", local("folder", folder, MODEL))
    if not folder.is_dir():
        raise expected("folder", "an existing run folder", str(folder))
    where = None if device is None else as_device("device", device)
    described, weights = folder / "model.json", folder / "model.safetensors"
    description = read_json(described)
    if program is not None or "program" in description:
        return _load_program(program, described, description, weights).to(where).eval()
    specs = description.get("vae")
    if not isinstance(specs, dict) or set(specs) - set(_FURTHER) != set(_PARTS):
        raise expected(str(described), f"parts {', '.join(_PARTS)}", specs)
    options = description.get("options", {})
    if not isinstance(options, dict) or not set(options) <= _OPTIONS:
        raise expected(str(described), f"options {', '.join(sorted(_OPTIONS))}", options)
    size = size_of(weights)
    try:
        with Bounded(max(_LEAST, 4 * size)):
            _check_parts(specs)
            named = (name for name in specs if name not in built)
            parts = built | {name: _build(name, specs[name], classes or {}) for name in named}
            vae = VAE(**parts, **options)
    except ValueError as error:
        raise ValueError(f"{described}: {error}") from None
    except Exception as error:  # whatever a constructor makes of arguments that a file has made up
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise expected(str(described), "a model that can be built", reason) from None
    numbers = sum(tensor.numel() for tensor in vae.state_dict().values())
    if size > 8 * numbers + _HEADER:
        raise expected(str(weights), f"{numbers:,} numbers as model.json says", f"{size:,} bytes")
    load_weights(vae, weights, description.get("sha256"))
    return vae.to(where).eval()


def _load_program(
    program: Program | None, path: Path, description: Mapping[str, Any], weights: Path
) -> Program:
    """Puts the parameters of a file into a pair that is built as the one that was saved."""
    saved = description.get("program")
    if not isinstance(saved, dict):
        raise expected("program", f"None, as {path} has a VAE", program)
    if not isinstance(program, Program):
        what = f"`pv.load(folder, program=Program({saved.get('model')}, {saved.get('guide')}))`"
        raise expected("program", f"the pair, as no file has its code: {what}", program)
    for name in ("observed", "plate"):
        if (found := program.spec()[name]) != saved.get(name):
            raise expected("program", f"one whose `{name}` is {saved.get(name)}", found)
    if isinstance(shapes := saved.get("shapes"), dict):
        program.take_shapes(shapes)
    load_weights(program, weights, description.get("sha256"))
    return program


def load_weights(vae: Amortized, path: Path, digest: object) -> None:
    """Puts the weights of a file whose SHA-256 is known into a model, in their precision.

    Raises:
        ValueError: If the file is missing or damaged, or has the weights of another model.
    """
    state, _ = tensors_of(path, read_bytes(path, digest))
    vae.to(dtype=next((t.dtype for t in state.values() if t.is_floating_point()), None))
    if isinstance(vae, VAE):
        work_as_before(vae, state)
    if isinstance(vae, Program):
        state = vae.ready_for(state)
    _check_numbers(path, vae, state)
    try:
        vae.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()  # the first line only names the class
        raise ValueError(f"`{path}`: expected the weights of model.json, got {reason}") from None


def _check_numbers(path: Path, vae: Amortized, state: Mapping[str, Tensor]) -> None:
    """Refuses weights that no fit leaves, of which no score would be one."""
    parameters = {name for name, _ in vae.named_parameters()}
    for name, own in vae.state_dict().items():
        if (found := state.get(name)) is None or not own.is_floating_point():
            continue
        if found.dtype not in (torch.float32, torch.float64):
            raise expected(str(path), f"float32 or float64 numbers as {name}", str(found.dtype))
        if name in parameters and not found.isfinite().all():
            raise expected(str(path), f"finite numbers as {name}", found)


def _options(vae: VAE) -> dict[str, Any]:
    options = {"cond_size": vae.cond_size, "show_mask": vae.guide.show_mask}
    return options | {"standardize": vae.standardize}


def _spec(part: nn.Module) -> dict[str, Any]:
    spec = getattr(part, "spec", None)
    return spec() if callable(spec) else {"class": type(part).__name__}


def _is_rebuilt(network: nn.Module) -> bool:
    """Returns whether a network's file has its arguments, or it has none."""
    if callable(getattr(network, "spec", None)):
        return True
    if type(network).__module__.partition(".")[0] == "torch":
        return False
    try:
        inspect.signature(type(network)).bind()
    except TypeError:
        return False
    return True


def _build(argument: str, spec: object, classes: Classes) -> Any:
    given = spec.get("args", {}) if isinstance(spec, dict) else None
    if not isinstance(spec, dict) or not isinstance(given, dict):
        raise expected(argument, "a class and its arguments", spec)
    name = spec.get("class")
    own = {
        f"{at}.{part}": getattr(package, part)
        for at, package in _PACKAGES.items()
        for part in package.__all__
        if inspect.isclass(getattr(package, part))
    }
    known = own | dict(classes)
    if not isinstance(name, str) or name not in known:
        error = unknown_name(argument, name, known)
        if argument not in _NETWORKS or not isinstance(name, str) or "." in name:
            raise error
        what = f"a network of your own: `pv.load(folder, {argument}=...)` takes one built alike"
        also = f", `classes={{{name!r}: ...}}` a function that builds it"
        raise expected(argument, f"{what}{also}", name)
    arguments = {key: _value(key, item, classes) for key, item in given.items()}
    try:
        return known[name](**arguments)
    except (TypeError, OverflowError) as error:
        raise expected(argument, f"arguments of {name}", str(error)) from None


def _check_parts(specs: object) -> None:
    """Refuses more parts within parts than any model has."""
    waiting, seen = [specs], 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list):
            seen += isinstance(value, dict)
            waiting += value.values() if isinstance(value, dict) else value
    if seen > _MOST_PARTS:
        raise expected("parts", f"at most {_MOST_PARTS:,} of them", seen)


def _value(argument: str, value: object, classes: Classes) -> Any:
    if isinstance(value, list):
        return [_value(argument, item, classes) for item in value]
    return _build(argument, value, classes) if isinstance(value, dict) else value


def of_known_schema(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of a file besides its schema, which is 1 where none is written.

    Raises:
        ValueError: If the schema is another.
    """
    content = dict(content)
    found = content.pop("schema", SCHEMA)
    if str(found) != str(SCHEMA):  # safetensors knows strings alone
        which = f"schema {SCHEMA}, which pyro-vae {version('pyro-vae')} reads"
        raise expected(str(path), which, found)
    return content


def read_json(path: Path, **kinds: Any) -> dict[str, Any]:
    """Reads a JSON object, without its schema.

    Args:
        path: The file.
        kinds: The types of what it must say, by name.

    Raises:
        ValueError: If there is no such file, it is no JSON object, of another schema, says what no
            file of a run does, or does not say what it must.
    """
    if (size := size_of(path)) > LARGEST_JSON:
        raise expected(str(path), f"at most {LARGEST_JSON:,} bytes of JSON", size)
    written = path.read_bytes()
    if (values := sum(written.count(each) for each in (b",", b"[", b"{"))) > _MOST_VALUES:
        raise expected(str(path), f"at most {_MOST_VALUES:,} values", values)
    try:
        content = loads(written)
    except (ValueError, RecursionError) as error:
        raise expected(str(path), "valid JSON", str(error)) from None
    if not isinstance(content, dict):
        raise expected(str(path), "a JSON object", content)
    content = of_known_schema(path, content)
    check_kinds(path, content, kinds)
    return content


def check_kinds(path: Path, content: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Checks that the content of a file is of the types that it must be of, by name.

    Raises:
        ValueError: If it is not, or it is not there.
    """
    for name, kind in kinds.items():
        if name not in content:
            raise expected(str(path), f"{name} in it", sorted(content))
        if not isinstance(content[name], kind):
            wanted = getattr(kind, "__name__", str(kind))
            raise expected(str(path), f"{wanted} as {name}", content[name])


def read_bytes(path: Path, digest: object) -> bytes:
    """Reads a file whose SHA-256 is known.

    Raises:
        ValueError: If there is no such file, or it is not what was written.
    """
    content = _read(path)
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise expected(str(path), f"SHA-256 {digest}", found)
    return content


def tensors_of(path: Path, content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the tensors and the metadata of a safetensors file, without its schema.

    Raises:
        ValueError: If it is none, or of another schema.
    """
    try:
        tensors = tensors_from_bytes(content)  # checks the header against the length
        text = content[8 : 8 + int.from_bytes(content[:8], "little")]
        header = loads(text)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise expected(str(path), "a safetensors file", str(error)) from None
    return tensors, of_known_schema(path, header.get("__metadata__", {}))


def size_of(path: Path) -> int:
    """Returns the size of a file of a run folder.

    Raises:
        ValueError: If there is no such file, or it is a link that leads out of the folder.
    """
    if not path.exists() and not path.is_symlink():
        what = f"a file {path.name} in it"
        if (path.parent / CHECKPOINTS).is_dir():
            what = "a finished run (fit --resume goes on with this one)"
        raise expected("folder", what, str(path.parent))
    # Of links that lead to one another a path of pathlib's raises an error without a name.
    end = os.path.realpath(path)
    if not (path.is_file() and Path(end).is_relative_to(path.parent.resolve())):
        # A pipe would be waited for without end.
        raise expected(str(path), "a plain file inside the folder", end)
    return path.stat().st_size


def _read(path: Path) -> bytes:
    size_of(path)
    return path.read_bytes()
