"""Vector quantizers on torch tensors: `fit`, `encode` [n, D] -> [n, M], `decode`."""

from dac_codec.quantization.additive import AdditiveQuantizer
from dac_codec.quantization.base import Quantizer, snr
from dac_codec.quantization.composite import CompositeQuantizer
from dac_codec.quantization.finite_state import FiniteStateQuantizer
from dac_codec.quantization.kmeans import KMeansQuantizer, k_means
from dac_codec.quantization.lattice import FiniteScalarQuantizer, LatticeQuantizer
from dac_codec.quantization.learning import CompetitiveQuantizer, LearningVectorQuantizer
from dac_codec.quantization.predictive import PredictiveQuantizer
from dac_codec.quantization.product import OptimizedProductQuantizer, ProductQuantizer
from dac_codec.quantization.residual import ResidualQuantizer
from dac_codec.quantization.scalar import LloydMaxQuantizer, UniformQuantizer, allocate
from dac_codec.quantization.tree import TreeQuantizer

__all__ = [
    "AdditiveQuantizer",
    "CompetitiveQuantizer",
    "CompositeQuantizer",
    "FiniteScalarQuantizer",
    "FiniteStateQuantizer",
    "KMeansQuantizer",
    "LatticeQuantizer",
    "LearningVectorQuantizer",
    "LloydMaxQuantizer",
    "OptimizedProductQuantizer",
    "PredictiveQuantizer",
    "ProductQuantizer",
    "Quantizer",
    "ResidualQuantizer",
    "TreeQuantizer",
    "UniformQuantizer",
    "allocate",
    "k_means",
    "snr",
]
