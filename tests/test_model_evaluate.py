"""The measures are those of scikit-learn and SciPy, and of the papers they come from."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn import metrics
from torch import nn

from data.images import ImageShape
from model.cnn import CNN
from model.config import NetworkConfig
from model.evaluate import evaluate_logits, predict_logits, wilson_interval

CLASSES = ("shirt", "bag", "boot", "coat")


@pytest.fixture(scope="module")
def measured() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw logits that are right more often than not; no image is called a coat."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 500)
    logits = random.normal(size=(500, 4)).astype(np.float32) * 2
    logits[np.arange(500), labels] += 2
    logits[:, 3] -= 12
    return logits, labels


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_scores_agree_with_scikit_learn(measured: Any) -> None:
    logits, labels = measured
    evaluation = evaluate_logits(logits, labels, CLASSES)
    answers = logits.argmax(axis=1)
    probabilities = softmax(logits.astype(np.float64), axis=1)
    assert evaluation.accuracy == pytest.approx(metrics.accuracy_score(labels, answers))
    assert evaluation.loss == pytest.approx(metrics.log_loss(labels, probabilities))
    assert np.array_equal(evaluation.confusion, metrics.confusion_matrix(labels, answers))
    expected = metrics.precision_recall_fscore_support(labels, answers, zero_division=0)
    for k, score in enumerate(evaluation.per_class):
        assert score.name == CLASSES[k]
        found = (score.precision, score.recall, score.f1, score.support)
        assert found == pytest.approx(tuple(column[k] for column in expected))
    assert list(evaluation.top_k) == [1, 2, 3]
    assert evaluation.top_k[1] == evaluation.accuracy
    for k in (2, 3):
        assert evaluation.top_k[k] == pytest.approx(
            metrics.top_k_accuracy_score(labels, probabilities, k=k)
        )


@pytest.mark.parametrize(("right", "total"), [(0, 10), (10, 10), (1, 3), (9300, 10000), (0, 1)])
def test_the_interval_is_wilsons(right: int, total: int) -> None:
    reference = binomtest(right, total).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson_interval(right, total) == pytest.approx((reference.low, reference.high))


def test_each_share_carries_its_own_interval(measured: Any) -> None:
    logits, labels = measured
    evaluation = evaluate_logits(logits, labels, CLASSES)
    confusion = np.array(evaluation.confusion)
    assert evaluation.ci95 == wilson_interval(int(np.trace(confusion)), 500)
    for k, score in enumerate(evaluation.per_class):
        right = int(confusion[k, k])
        assert score.precision_ci95 == wilson_interval(right, int(confusion[:, k].sum()))
        assert score.recall_ci95 == wilson_interval(right, int(confusion[k].sum()))
    # No image was called a coat: nothing is known of that precision.
    assert evaluation.per_class[3].precision == 0.0
    assert evaluation.per_class[3].precision_ci95 == (0.0, 1.0)


def test_the_calibration_error_is_the_papers_sum_over_fifteen_bins(measured: Any) -> None:
    logits, labels = measured
    evaluation = evaluate_logits(logits, labels, CLASSES)
    confidence = softmax(logits.astype(np.float64), axis=1).max(axis=1)
    right = logits.argmax(axis=1) == labels
    expected = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        assert evaluation.reliability[m].num_images == inside.sum()
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            expected += inside.sum() / 500 * gap
        else:
            assert evaluation.reliability[m].accuracy is None
    assert evaluation.calibration_error == pytest.approx(expected)
    assert sum(part.num_images for part in evaluation.reliability) == 500


def test_certain_answers_fall_into_the_last_bin_and_are_perfectly_calibrated() -> None:
    logits = np.full((4, 4), -1000, dtype=np.float32)
    np.fill_diagonal(logits, 1000)
    evaluation = evaluate_logits(logits, np.arange(4), CLASSES)
    assert evaluation.reliability[-1].num_images == 4
    assert (evaluation.accuracy, evaluation.loss, evaluation.calibration_error) == (1.0, 0.0, 0.0)


def test_two_classes_have_no_top_two() -> None:
    logits = np.array([[1.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    assert evaluate_logits(logits, np.array([0, 1]), ("a", "b")).top_k == {1: 0.5}


def test_the_dictionary_is_plain_json(measured: Any) -> None:
    values = evaluate_logits(*measured, CLASSES).to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_logits_that_cannot_be_measured_are_refused(measured: Any) -> None:
    logits, labels = measured
    with pytest.raises(ValueError, match=r"logits have shape \(500, 4\) for 500 labels and 2"):
        evaluate_logits(logits, labels, ("a", "b"))
    with pytest.raises(ValueError, match="for 0 labels"):
        evaluate_logits(logits[:0], labels[:0], CLASSES)
    broken = logits.copy()
    broken[3, 1] = np.nan
    with pytest.raises(ValueError, match="not finite: the training diverged"):
        evaluate_logits(broken, labels, CLASSES)


def test_prediction_is_in_evaluation_mode_for_all_images_and_puts_the_mode_back() -> None:
    shape = ImageShape(channels=1, height=8, width=8, num_classes=4)
    config = NetworkConfig(filters=(4,), dropout=0.5)
    model = CNN(config, shape, [100.0], [50.0]).train()
    images = torch.randint(0, 256, (23, 1, 8, 8)).to(torch.uint8)
    logits = predict_logits(model, images, batch_size=10)
    assert logits.dtype == np.float32 and logits.shape == (23, 4)
    assert model.training
    expected = nn.Module.eval(model)(images).detach().numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5)
