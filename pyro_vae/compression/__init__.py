r"""Lossless compression by a fitted model: bits-back coding with asymmetric numeral systems.

A whole number of probability P is put onto a stack of bits in about :math:`-\log_2 P` of them, and
taken from it again (ANS). Of a row x, its latent z is first *taken* from the bits that are there,
by q(z|x); then x is put onto the stack by p(x|z), and z by p(z). On average that adds

.. math:: -\mathbb{E}_{q(z \mid x)} \left[\log_2 p(x \mid z) + \log_2 p(z) - \log_2 q(z \mid x)
    \right] = -\mathrm{ELBO} / \log 2

bits, and each step is undone exactly. Latents are places on a grid of :math:`2^{16}` bins an entry
that are equally probable under the prior. Where a guide goes from the bottom up, each layer goes
onto the stack before the next is taken from it (Bit-Swap).
"""

from pyro_vae.compression.coding import compress, decompress
from pyro_vae.compression.container import Header, header_of

__all__ = ["Header", "compress", "decompress", "header_of"]
