"""Every score against a value worked out by hand or known from theory."""

from helpers import metrics

import numpy as np
import pytest

P = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.5, 0.25, 0.25]])
Y = np.array([0, 1, 0, 0])


def test_scores_of_four_examples_by_hand():
    assert metrics.accuracy(P, Y) == 0.75
    assert metrics.nll(P, Y) == pytest.approx(-np.log(0.7 * 0.8 * 0.3 * 0.5) / 4)
    squares = [0.09 + 0.04 + 0.01, 0.01 + 0.04 + 0.01, 0.49 + 0.09 + 0.16, 0.25 + 0.0625 + 0.0625]
    assert metrics.brier(P, Y) == pytest.approx(np.mean(squares))
    summary = metrics.summary(P, Y)
    assert summary == {
        "accuracy": 0.75,
        "nll": metrics.nll(P, Y),
        "brier": metrics.brier(P, Y),
        "ece": metrics.ece(P, Y),
    }


def test_extremes():
    sure = np.eye(3)
    assert metrics.nll(sure, [0, 1, 2]) == 0
    assert metrics.brier(sure, [1, 2, 0]) == 2
    assert metrics.nll(sure, [1, 2, 0]) == pytest.approx(87.34, abs=0.01)
    assert metrics.nll(sure.astype(np.float32), [1, 2, 0]) == pytest.approx(87.34, abs=0.01)
    assert metrics.ece(sure, [1, 2, 0]) == 1


def test_ece_by_hand():
    # Confidences 0.7, 0.8, 0.4, 0.5 in two bins: (0, 0.5] holds the last two, (0.5, 1] the first two.
    confidence, accuracy, count = metrics.calibration_curve(P, Y, bins=2)
    assert count.tolist() == [2, 2]
    assert confidence == pytest.approx([0.45, 0.75])
    assert accuracy == pytest.approx([0.5, 1.0])
    assert metrics.ece(P, Y, bins=2) == pytest.approx(0.5 * 0.05 + 0.5 * 0.25)
    # In 15 bins each is alone in its own.
    assert metrics.ece(P, Y) == pytest.approx((0.3 + 0.2 + 0.4 + 0.5) / 4)
    empty = metrics.calibration_curve(P, Y)[2] == 0
    assert empty.sum() == 11
    assert np.isnan(metrics.calibration_curve(P, Y)[1][empty]).all()


def test_ece_is_small_for_a_calibrated_predictor_and_finds_an_overconfident_one():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(10), 50_000)
    y = (p.cumsum(axis=1) > rng.random((len(p), 1))).argmax(axis=1)
    assert metrics.ece(p, y) < 0.01
    sharpened = p**2 / (p**2).sum(axis=1, keepdims=True)
    overconfidence = sharpened.max(axis=1).mean() - metrics.accuracy(p, y)
    assert metrics.ece(sharpened, y) == pytest.approx(overconfidence, abs=0.01)
    assert metrics.nll(p, y) < metrics.nll(sharpened, y)
    assert metrics.brier(p, y) < metrics.brier(sharpened, y)


def drawn_labels(rng, confidences):
    """Predictions of three classes with these confidences, and labels that they predict in the right fraction."""
    p = np.stack([confidences, *[(1 - confidences) / 2] * 2], axis=1)
    return p, (rng.random(len(p)) > confidences).astype(int)


def test_calibration_in_equal_mass_bins_by_hand():
    # Confidences 0.4, 0.5 (the first wrong) and 0.7, 0.8; gaps 0.4, -0.5, -0.3, -0.2.
    assert metrics.adaptive_ece(P, Y, bins=2) == pytest.approx((abs(0.4 - 0.5) + 0.3 + 0.2) / 4)
    first, second = 0.05**2 - 0.9**2 / 2 / 2, 0.25**2 - 0.1**2 / 2 / 2
    assert metrics.squared_calibration_error(P, Y, bins=2) == pytest.approx((first + second) / 2)
    assert metrics.adaptive_ece(P, Y, bins=1) == pytest.approx(0.6 / 4)


def test_the_squared_error_has_no_bias_and_the_others_have_the_one_of_theory():
    """The gap of a bin of n calibrated examples is normal with variance mean(c (1 - c)) / n."""
    rng, n, bins = np.random.default_rng(0), 300, 10
    squared, absolute, expected = [], [], []
    for _ in range(500):
        confidences = np.sort(rng.uniform(0.5, 0.99, n))
        p, y = drawn_labels(rng, confidences)
        squared.append(metrics.squared_calibration_error(p, y, bins))
        absolute.append(metrics.adaptive_ece(p, y, bins))
        variances = (confidences * (1 - confidences)).reshape(bins, -1).mean(1) * bins / n
        expected.append(np.sqrt(2 * variances / np.pi).mean())
    assert abs(np.mean(squared)) < 4 * np.std(squared) / np.sqrt(500)
    assert np.mean(absolute) == pytest.approx(np.mean(expected), rel=0.03)


def test_the_squared_error_of_a_predictor_that_is_wrong_by_a_tenth():
    rng = np.random.default_rng(1)
    found = []
    for _ in range(500):
        p, y = drawn_labels(rng, rng.uniform(0.6, 0.8, 200))
        over = p + np.array([0.1, -0.05, -0.05])
        found.append(metrics.squared_calibration_error(over, y, 5))
    assert abs(np.mean(found) - 0.01) < 4 * np.std(found) / np.sqrt(500)


def test_with_equal_confidences_in_a_bin_the_estimator_is_that_of_kumar_and_others():
    p, y = drawn_labels(np.random.default_rng(2), np.repeat([0.4, 0.6, 0.9], 40))
    right = 0.0
    for c in (0.4, 0.6, 0.9):
        rate = np.mean(y[p[:, 0] == c] == 0)
        right += ((c - rate) ** 2 - rate * (1 - rate) / (40 - 1)) / 3
    assert metrics.squared_calibration_error(p, y, 3) == pytest.approx(right)


def test_entropies_of_draws_that_agree_and_of_draws_that_do_not():
    agree = np.tile([[0.5, 0.5], [1.0, 0.0]], (4, 1, 1))
    assert metrics.predictive_entropy(agree) == pytest.approx([np.log(2), 0])
    assert not np.signbit(metrics.predictive_entropy(agree)).any()  # "-0.000" would be odd in a table
    assert metrics.expected_entropy(agree) == pytest.approx([np.log(2), 0])
    assert metrics.mutual_information(agree) == pytest.approx([0, 0])
    # Two draws, each certain of another class: all the uncertainty is about the weights.
    quarrel = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert metrics.predictive_entropy(quarrel) == pytest.approx([np.log(2)])
    assert metrics.expected_entropy(quarrel) == pytest.approx([0])
    assert metrics.mutual_information(quarrel) == pytest.approx([np.log(2)])
    mixed = np.array([[[0.9, 0.1]], [[0.5, 0.5]]])
    total = -0.7 * np.log(0.7) - 0.3 * np.log(0.3)
    within = (-0.9 * np.log(0.9) - 0.1 * np.log(0.1) + np.log(2)) / 2
    assert metrics.mutual_information(mixed) == pytest.approx([total - within])


def test_mutual_information_is_not_negative_in_float32():
    draws = np.repeat(np.random.default_rng(0).dirichlet(np.ones(10), (1, 500)), 7, axis=0).astype(np.float32)
    assert metrics.mutual_information(draws).min() >= 0
    assert metrics.mutual_information(draws).max() < 1e-6


def test_summary_averages_draws_before_scoring():
    draws = np.stack([P, np.roll(P, 1, axis=1)])
    assert metrics.summary(draws, Y) == metrics.summary(draws.mean(axis=0), Y)


def test_auroc():
    assert metrics.auroc([0, 1, 2], [3, 4]) == 1
    assert metrics.auroc([3, 4], [0, 1, 2]) == 0
    assert metrics.auroc([1, 1], [1, 1, 1]) == 0.5
    assert metrics.auroc([1, 2, 3, 4], [2.5]) == 0.5
    scores = np.array([2.0, 0.0, 1.0])
    assert metrics.auroc(scores, [0.5]) == pytest.approx(1 / 3)
    assert scores.tolist() == [2, 0, 1]
    # Two unit Gaussians a distance d apart: AUROC is Phi(d / sqrt 2), here with d = sqrt 2.
    rng = np.random.default_rng(0)
    found = metrics.auroc(rng.normal(size=20_000), rng.normal(np.sqrt(2), 1, 20_000))
    assert found == pytest.approx(0.8413, abs=0.005)


def test_false_positive_rate():
    assert metrics.false_positive_rate([0, 1, 2], [3, 4]) == 0
    assert metrics.false_positive_rate([3, 4], [0, 1, 2]) == 1
    assert metrics.false_positive_rate([1, 2, 3, 4], [2, 3], detection=0.5) == 0.5
    # 19 of 20 are detected at a score of 1, and 20 of 20 at 0.
    assert metrics.false_positive_rate([0, 0, 0, 1], np.r_[0, np.ones(19)]) == 0.25
    assert metrics.false_positive_rate([0, 0, 0, 1], np.r_[0, np.ones(19)], detection=1) == 1
    # Two unit Gaussians two apart: the rate is Phi(1.645 - 2).
    rng = np.random.default_rng(0)
    found = metrics.false_positive_rate(rng.normal(size=40_000), rng.normal(2, 1, 40_000))
    assert found == pytest.approx(0.3613, abs=0.02)


def test_accuracy_vs_retained():
    retained, accuracy = metrics.accuracy_vs_retained([0.2, 0.9, 0.5, 0.7], [False, True, False, True])
    assert retained == pytest.approx([0.25, 0.5, 0.75, 1])
    assert accuracy == pytest.approx([1, 1, 2 / 3, 0.5])
    # Equal scores go together, so the order of the examples does not matter.
    for correct in ([True, True, False], [True, False, True]):
        retained, accuracy = metrics.accuracy_vs_retained([0.9, 0.5, 0.5], correct)
        assert retained == pytest.approx([1 / 3, 1])
        assert accuracy == pytest.approx([1, 2 / 3])
    by_probabilities = metrics.accuracy_vs_retained(P, [True, True, False, True])
    assert np.array(by_probabilities) == pytest.approx(
        np.array(metrics.accuracy_vs_retained(P.max(axis=1), [True, True, False, True]))
    )


def test_coverage():
    assert metrics.coverage([0, 0, 0, 0], [1, 1, 1, 1], [0, 0.5, 1, 1.5]) == 0.75
    y = np.random.default_rng(0).normal(size=100_000)
    bound = np.full_like(y, 1.645)
    assert metrics.coverage(-bound, bound, y) == pytest.approx(0.9, abs=0.005)


def test_total_variance_is_that_of_the_mixture():
    means, variances = np.array([[0.0, 1.0], [2.0, 1.0]]), np.array([[1.0, 4.0], [3.0, 2.0]])
    mean, aleatoric, epistemic = metrics.total_variance(means, variances)
    assert mean.tolist() == [1, 1]
    assert aleatoric.tolist() == [2, 3]
    assert epistemic.tolist() == [1, 0]
    rng = np.random.default_rng(0)
    draws = rng.normal(means, np.sqrt(variances), (200_000, 2, 2)).reshape(-1, 2)
    assert draws.var(axis=0) == pytest.approx(aleatoric + epistemic, rel=0.02)


def test_monte_carlo_error_falls_as_one_over_root_s():
    sizes = [1, 4, 16, 64]
    draws = np.random.default_rng(0).normal(0, 3, (1024, 50, 2))
    assert metrics.monte_carlo_error(draws, sizes) == pytest.approx(3 / np.sqrt(sizes), rel=0.05)
    assert metrics.monte_carlo_error(np.ones((8, 3)), [2]) == 0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: metrics.nll(P * 2, Y), "sum to 1"),
        (lambda: metrics.nll(np.array([[1.5, -0.5]]), [0]), ">= 0"),
        (lambda: metrics.nll(np.log(P), Y), "softmax"),
        (lambda: metrics.ece(np.where(P == 0.7, np.nan, P), Y), "1 of 12 values are NaN"),
        (lambda: metrics.accuracy(P[0], Y), r"\[N, C\]; found shape \(3,\)"),
        (lambda: metrics.accuracy(P[:0], Y[:0]), "found shape"),
        (lambda: metrics.accuracy(P, Y[:3]), "expected labels"),
        (lambda: metrics.accuracy(P, np.eye(3)[Y]), "expected labels"),
        (lambda: metrics.accuracy(P, Y.astype(float)), "integers"),
        (lambda: metrics.brier(P, Y + 2), "0..2; found 2..3"),
        (lambda: metrics.brier(P, Y - 1), "0..2; found -1..0"),
        (lambda: metrics.predictive_entropy(P), r"\[S, N, C\]"),
        (lambda: metrics.auroc([], [1.0]), "at least one"),
        (lambda: metrics.false_positive_rate([1.0], [1.0], 95), "detection=95"),
        (lambda: metrics.adaptive_ece(P, Y), "at least 15 examples for 15 bins, found 4"),
        (lambda: metrics.squared_calibration_error(P, Y, 3), "at least 6 examples"),
        (lambda: metrics.auroc([np.inf], [1.0]), "infinite"),
        (lambda: metrics.coverage([1.0], [0.0], [0.5]), "swapped"),
        (lambda: metrics.coverage([1.0, 2.0], [3.0, 4.0], [2.0]), "one shape"),
        (lambda: metrics.total_variance(np.zeros((2, 3)), -np.ones((2, 3))), "log-variances"),
        (lambda: metrics.total_variance(np.zeros((2, 3)), np.ones((2, 1))), "one shape"),
        (lambda: metrics.accuracy_vs_retained([0.1, 0.2], [True]), "score"),
        (lambda: metrics.monte_carlo_error(np.zeros((10, 2)), [6]), "half"),
    ],
)
def test_bad_input_is_refused_with_its_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()
