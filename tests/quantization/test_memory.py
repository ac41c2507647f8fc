"""Quantizers with memory, with labels, and in parts."""

from __future__ import annotations

import pytest
import torch

from dac_codec.quantization import (
    CompetitiveQuantizer,
    FiniteStateQuantizer,
    KMeansQuantizer,
    LearningVectorQuantizer,
    OptimizedProductQuantizer,
    PredictiveQuantizer,
    ProductQuantizer,
    Quantizer,
)
from dac_codec.quantization.learning import Rule
from tests.quantization.vectors import correlated, error, fitted, gauss_markov, generator


def test_memory_gains_on_a_correlated_source() -> None:
    """At 6 bits for 4 samples: prediction, and codebooks chosen by the past, beat k-means at the same bits."""
    x, test = gauss_markov(8000, 4), gauss_markov(2000, 4, 1)
    plain = error(fitted(KMeansQuantizer(4, 64), x), test)
    predictive = error(fitted(PredictiveQuantizer(KMeansQuantizer(4, 64)), x), test)
    states = error(fitted(FiniteStateQuantizer([KMeansQuantizer(4, 64) for _ in range(8)]), x), test)
    assert predictive < 0.75 * plain
    assert states < 0.9 * plain


def test_past_vectors_end_at_a_reset() -> None:
    quantizer = PredictiveQuantizer(KMeansQuantizer(1, 2), order=2, length=3)
    past = quantizer.past(torch.arange(1.0, 6.0)[:, None], 2)
    assert past.tolist() == [[0, 0], [1, 0], [2, 1], [0, 0], [4, 0]]


@pytest.mark.parametrize("kind", ["predictive", "finite-state"])
def test_decoding_can_start_at_a_reset(kind: str) -> None:
    quantizer: Quantizer
    if kind == "predictive":
        quantizer = PredictiveQuantizer(KMeansQuantizer(4, 16), length=50)
    else:
        quantizer = FiniteStateQuantizer([KMeansQuantizer(4, 16) for _ in range(3)], length=50)
    x = gauss_markov(330, 4)
    quantizer.fit(x, generator())
    codes = quantizer.encode(x)
    whole = quantizer.decode(codes)
    assert torch.allclose(quantizer.decode(codes[100:]), whole[100:], atol=1e-6)
    assert torch.equal(quantizer.encode(x[100:]), codes[100:])
    assert not torch.allclose(quantizer.decode(codes[110:150]), whole[110:150], atol=1e-3), "there is a memory"


def test_the_loop_is_closed() -> None:
    """The error is that of quantizing what the past decoded vectors do not predict: it does not add up."""
    x = gauss_markov(600, 4)
    quantizer = PredictiveQuantizer(KMeansQuantizer(4, 32), length=600)
    quantizer.fit(x, generator())
    decoded = quantizer(x)
    predicted = quantizer.mean + quantizer.past(decoded - quantizer.mean) @ quantizer.weights
    residual = x - predicted
    assert torch.allclose(x - decoded, residual - quantizer.inner(residual), atol=1e-5)
    first, last = ((x - decoded)[part].square().mean() for part in (slice(0, 300), slice(300, 600)))
    assert float(last) < 1.5 * float(first)


def test_a_rotation_gains_where_the_parts_are_correlated() -> None:
    mix = torch.linalg.qr(torch.randn(8, 8, generator=generator(5)))[0]
    x, test = correlated(3000, 8) @ mix, correlated(1000, 8, 1) @ mix
    plain = error(fitted(ProductQuantizer.of_codebooks(8, [16, 16]), x), test)
    quantizer = OptimizedProductQuantizer(8, [16, 16])
    quantizer.fit(x, generator())
    assert error(quantizer, test) < 0.8 * plain
    assert torch.allclose(quantizer.rotation @ quantizer.rotation.t(), torch.eye(8), atol=1e-5)


def test_competitive_learning_comes_near_k_means() -> None:
    x = correlated(3000, 4)
    means = error(fitted(KMeansQuantizer(4, 16), x), x)
    assert error(fitted(CompetitiveQuantizer(4, 16), x), x) < 1.1 * means


@pytest.mark.parametrize("rule", ["lvq1", "lvq2.1", "lvq3"])
def test_labels_move_entries_to_the_border(rule: Rule) -> None:
    """Two classes, one around the other: the start (random examples of each) classifies worse than what is learned."""
    random = generator()
    x = torch.randn(1500, 2, generator=random)
    labels = (x.norm(dim=1) > 1.18).long()
    start = LearningVectorQuantizer(2, 12, rule, epochs=0)
    start.fit(x, generator(1), labels)
    learned = LearningVectorQuantizer(2, 12, rule, epochs=15)
    learned.fit(x, generator(1), labels)
    accuracy = [float((quantizer.classify(x) == labels).float().mean()) for quantizer in (start, learned)]
    assert accuracy[1] > 0.9
    assert accuracy[1] > accuracy[0] + 0.02
    assert learned.decode(learned.encode(x)).shape == x.shape


def test_labels_that_do_not_fit() -> None:
    quantizer = LearningVectorQuantizer(2, 2)
    with pytest.raises(ValueError, match="2 entries need labels of at most as many classes, not 0"):
        quantizer.fit(torch.zeros(5, 2), generator())
    with pytest.raises(ValueError, match="not 3"):
        quantizer.fit(torch.zeros(5, 2), generator(), torch.tensor([0, 1, 2, 0, 1]))
    with pytest.raises(ValueError, match="1 vectors of class 1 are too few for 2 entries"):
        LearningVectorQuantizer(2, 4).fit(torch.zeros(5, 2), generator(), torch.tensor([0, 1, 0, 0, 0]))
