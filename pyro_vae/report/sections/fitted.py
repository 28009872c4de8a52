"""The model, the data and the options of the fit."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import version

from pyro_vae._errors import plural
from pyro_vae._html import Html, tag
from pyro_vae.criticism._entries import likelihood_of
from pyro_vae.part import Part
from pyro_vae.programs import VAE, Amortized, Program
from pyro_vae.programs.composition import composed_of
from pyro_vae.report.findings import Findings
from pyro_vae.report.pictures import held_out

__all__ = ["section", "versions"]

_NAMED = 40  # columns that are listed
_DENSITIES = {
    "prior": " p(z)",
    "guide": " q(z | x)",
    "likelihood": " p(x | z)",
    "missingness": " p(s | x)",
}


def section(findings: Findings) -> Html:
    """Returns a table of what was fitted, how, and to what."""
    vae, data = findings.vae, findings.data
    parameters = sum(p.numel() for p in vae.parameters())
    sizes = ", ".join(f"{len(getattr(data, s)):,} {s}" for s in ("train", "validation", "test"))
    measure = data.base_measure(held_out(data))
    treated = ", ".join(
        f"{key}: {measure[key]}"
        for key in ("binarize", "dequantize", "transform")
        if measure[key] not in (None, "none")
    )
    rows = [
        *((what, tag("code", part)) for what, part in _parts(vae).items()),
        ("parameters", f"{parameters:,}"),
        *((what, tag("code", value)) for what, value in findings.settings.items()),
        ("data", f"{data.name}: {sizes}; {_observation(findings)}"),
        *_beside(findings),
        ("base measure", f"{_measure(findings)}{f'; {treated}' if treated else ''}"),
        ("fingerprint", tag("code", f"{measure['fingerprint'][:16]} ({findings.split} data)")),
        ("page made with", versions()),
    ]
    return tag("table", tag("tbody", *(_row(*row) for row in rows)), class_="facts")


def _parts(vae: Amortized) -> dict[str, str]:
    """Returns what the model is made of, each as one would write it."""
    if isinstance(vae, Program):
        spec = {"model p(x, z)": vae.model.name, "guide q(z | x)": vae.guide.name}
        sites = {"latent sites": vae.structure.latent, "observed sites": vae.structure.observed}
        if vae.drawn:
            drawn = ", ".join(f"{name} {tuple(value.shape)}" for name, value in vae.drawn.items())
            spec["global latents"] = f"{drawn}: this page is of one draw of the guide"
        return spec | {
            what: ", ".join(f"{name} {tuple(site.shape)}" for name, site in each.items())
            for what, each in sites.items()
        }
    if not isinstance(vae, VAE):
        return {"program": type(vae).__name__}
    return {f"{name}{_DENSITIES.get(name, '')}": _call(p) for name, p in composed_of(vae).items()}


def _beside(findings: Findings) -> Iterator[tuple[str, str]]:
    """What goes with the data, so that it is clear of what every log p(x) is."""
    vae, data, rows = findings.vae, findings.data, findings.rows
    if (cond := rows.given.get("cond")) is not None:
        size = cond.shape[-1]
        names = ", ".join(each.name for each in data.columns) or f"{plural(size, 'number')}"
        yield "conditioned on", f"{names}: log p(x) is log p(x | {names}), here and below"
    if (covariates := rows.given.get("covariates")) is not None:
        yield "covariates", ", ".join(covariates)
    if rows.mask is not None:
        missing = 1 - float(rows.mask.double().mean())
        modelled = "" if vae.is_ignorable else ", and of which entries those are"
        yield "missing", f"{missing:.0%} of the entries; log p(x) is of what is observed{modelled}"


def _observation(findings: Findings) -> str:
    """What one observation is: the columns of a table, or a shape."""
    if not findings.columns:
        return f"one observation has shape {tuple(findings.data.event_shape)}"
    kinds = [f" ({each.field.kind})" if each.field else "" for each in findings.entries]
    shown = [f"{e.title}{kind}" for e, kind in zip(findings.entries, kinds, strict=True)]
    more = f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    return f"{plural(len(shown), 'column')}: {', '.join(shown[:_NAMED])}{more}"


def _measure(findings: Findings) -> str:
    """What densities are taken against, of columns that differ by their names."""
    vae = findings.vae
    if not isinstance(vae, VAE) or vae.likelihood.measure != "mixed" or not findings.columns:
        return vae.base_measure
    likelihoods = {each.name: likelihood_of(vae, each) for each in findings.entries}
    counting = [name for name, own in likelihoods.items() if own and own.measure == "counting"]
    masks = "" if vae.is_ignorable else ", and for the mask"
    return f"mixed, counting in {', '.join(counting)}{masks}"


def _row(*cells: object) -> Html:
    return tag("tr", *(tag("td", cell) for cell in cells))


def _call(part: object) -> str:
    """A part as one would write it."""
    return _written(part.spec()) if isinstance(part, Part) else type(part).__name__


def _written(value: object) -> str:
    """The spec of a part as a call; parts within it too."""
    if isinstance(value, dict) and set(value) == {"class", "args"}:
        arguments = ", ".join(f"{name}={_written(each)}" for name, each in value["args"].items())
        return f"{value['class']}({arguments})"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    return str(value)


def versions() -> str:
    """Returns the versions that compute here, in a line."""
    shown = {"pyro-vae": "pyro-vae", "pyro-ppl": "Pyro", "torch": "PyTorch", "numpy": "NumPy"}
    versions = [f"{title} {version(package)}" for package, title in shown.items()]
    return ", ".join([*versions, f"Python {platform.python_version()}"])
