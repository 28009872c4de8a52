"""The licenses that a model card may state."""

from __future__ import annotations

from pyro_vae._errors import unknown_name

__all__ = ["LICENSES", "check_license"]

LICENSES = (
    "apache-2.0", "mit", "other", "unknown", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc0-1.0", "bsd-3-clause", "bsd-2-clause", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "mpl-2.0",
    "afl-3.0", "apple-amlr", "apple-ascl", "artistic-2.0", "bigcode-openrail-m",
    "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd", "bsd-3-clause-clear",
    "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-nc-2.0",
    "cc-by-nc-3.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0",
    "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cdla-permissive-1.0",
    "cdla-permissive-2.0", "cdla-sharing-1.0", "creativeml-openrail-m", "deepfloyd-if-license",
    "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2",
    "fair-noncommercial-research-license", "gemma", "gfdl", "gpl", "gpl-2.0", "h-research",
    "intel-research", "isc", "lgpl", "lgpl-2.1", "lgpl-lr", "llama2", "llama3", "llama3.1",
    "llama3.2", "llama3.3", "llama4", "lppl-1.3c", "ms-pl", "ncsa", "odbl", "odc-by", "ofl-1.1",
    "open-mdw", "openrail", "openrail++", "osl-3.0", "pddl", "postgresql", "unlicense", "wtfpl",
    "zlib",
)  # fmt: skip
"""The identifiers of the Hub, the commonest first; ``other`` goes with a file LICENSE."""


def check_license(license: object) -> str:
    """Returns the identifier of a license.

    References:
        https://huggingface.co/docs/hub/repositories-licenses

    Raises:
        ValueError: If the Hub does not know it.

    Example:
        >>> check_license("mit")
        'mit'
    """
    if license not in LICENSES:
        raise unknown_name("license", license, LICENSES)
    return str(license)
