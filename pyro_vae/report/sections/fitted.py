"""The model, the data and the options of the fit."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import version

from pyro_vae._html import Html, tag
from pyro_vae.part import Part
from pyro_vae.programs import VAE, Amortized, Program
from pyro_vae.report.findings import Findings
from pyro_vae.report.pictures import held_out

__all__ = ["section"]


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
        ("data", f"{data.name}: {sizes}; one observation has shape {tuple(data.event_shape)}"),
        *_beside(findings),
        ("base measure", f"{vae.base_measure}{f'; {treated}' if treated else ''}"),
        ("fingerprint", tag("code", f"{measure['fingerprint'][:16]} ({findings.split} data)")),
        ("page made with", _versions()),
    ]
    return tag("table", tag("tbody", *(_row(*row) for row in rows)), class_="facts")


def _parts(vae: Amortized) -> dict[str, str]:
    """Returns what the model is made of, each as one would write it."""
    if isinstance(vae, Program):
        spec = {"model p(x, z)": vae.model.name, "guide q(z | x)": vae.guide.name}
        sites = {"latent sites": vae.structure.latent, "observed sites": vae.structure.observed}
        return spec | {
            what: ", ".join(f"{name} {tuple(site.shape)}" for name, site in each.items())
            for what, each in sites.items()
        }
    if not isinstance(vae, VAE):
        return {"program": type(vae).__name__}
    parts = {
        "prior p(z)": vae.prior,
        "guide q(z | x)": vae.guide_family,
        "likelihood p(x | z)": vae.likelihood,
        "encoder": vae.encoder,
        "decoder": vae.decoder,
    }
    if vae.missingness is not None:
        parts["missingness p(s | x)"] = vae.missingness
    return {what: _call(part) for what, part in parts.items()}


def _beside(findings: Findings) -> Iterator[tuple[str, str]]:
    """What goes with the data, so that it is clear of what every log p(x) is."""
    vae, data, rows = findings.vae, findings.data, findings.rows
    if (cond := rows.given.get("cond")) is not None:
        size = cond.shape[-1]
        names = ", ".join(each.name for each in data.columns) or f"{size} numbers"
        yield "conditioned on", f"{names}: log p(x) is log p(x | {names}), here and below"
    if (covariates := rows.given.get("covariates")) is not None:
        yield "covariates", ", ".join(covariates)
    if rows.mask is not None:
        missing = 1 - float(rows.mask.double().mean())
        modelled = "" if vae.is_ignorable else ", and of which entries those are"
        yield "missing", f"{missing:.0%} of the entries; log p(x) is of what is observed{modelled}"


def _row(*cells: object) -> Html:
    return tag("tr", *(tag("td", cell) for cell in cells))


def _call(part: object) -> str:
    """A part as one would write it."""
    if not isinstance(part, Part):
        return type(part).__name__
    spec = part.spec()
    arguments = ", ".join(f"{name}={value}" for name, value in spec["args"].items())
    return f"{spec['class']}({arguments})"


def _versions() -> str:
    shown = {"pyro-vae": "pyro-vae", "pyro-ppl": "Pyro", "torch": "PyTorch", "numpy": "NumPy"}
    versions = [f"{title} {version(package)}" for package, title in shown.items()]
    return ", ".join([*versions, f"Python {platform.python_version()}"])
