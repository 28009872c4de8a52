"""Networks: features in, features out; nothing probabilistic."""

from pyro_vae.networks.bayesian import Bayesian
from pyro_vae.networks.conv import ConvDecoder, ConvEncoder
from pyro_vae.networks.mlp import MLP
from pyro_vae.networks.network import Network
from pyro_vae.networks.sequence_encoder import SequenceEncoder
from pyro_vae.networks.temporal_conv import TemporalConvDecoder, TemporalConvEncoder
from pyro_vae.networks.topic_decoder import TopicDecoder

__all__ = [
    "MLP",
    "Bayesian",
    "ConvDecoder",
    "ConvEncoder",
    "Network",
    "SequenceEncoder",
    "TemporalConvDecoder",
    "TemporalConvEncoder",
    "TopicDecoder",
]
