r"""What is fitted and judged: the Pyro programs p(x, z) and q(z|x) of a variational autoencoder.

.. math:: p(x, z) = p(z) \, p(x \mid z), \qquad q(z \mid x),
    \qquad \log p(x) \ge \mathrm{E}_q[\log p(x, z) - \log q(z \mid x)]
"""

from pyro_vae.programs.program import Program
from pyro_vae.programs.protocol import Amortized, Refit
from pyro_vae.programs.vae import VAE
from pyro_vae.programs.view import View

__all__ = ["VAE", "Amortized", "Program", "Refit", "View"]
