"""Metrics against second roads: scikit-learn, sums by hand, printed intervals."""

from dataclasses import replace

import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, top_k_accuracy_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from backbones.evaluate import Metrics, collect, evaluate, measure


@pytest.fixture(scope="module")
def answers() -> tuple[Tensor, Tensor]:
    """Answers of a fairly good network: 400 images of ten classes, the last of which never occurs."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(9, (400,), generator=generator)
    return torch.randn(400, 10, generator=generator) + 2 * nn.functional.one_hot(labels, 10), labels


def test_agrees_with_scikit_learn(answers: tuple[Tensor, Tensor]) -> None:
    logits, labels = answers
    metrics = measure(logits, labels, 10)
    predicted, classes = logits.argmax(1), range(10)
    assert metrics.images == 400
    assert metrics.top1 == pytest.approx(100 * accuracy_score(labels, predicted))
    assert metrics.top5 == pytest.approx(100 * top_k_accuracy_score(labels, logits, k=5, labels=classes))
    assert metrics.loss == pytest.approx(log_loss(labels, logits.double().softmax(1), labels=classes), rel=1e-5)
    assert metrics.confusion == tuple(map(tuple, confusion_matrix(labels, predicted, labels=classes).tolist()))


def test_accuracy_per_class_is_none_without_images(answers: tuple[Tensor, Tensor]) -> None:
    logits, labels = answers
    *seen, unseen = measure(logits, labels, 10).per_class
    right = logits.argmax(1) == labels
    assert seen == pytest.approx([100 * right[labels == c].float().mean().item() for c in range(9)])
    assert unseen is None


def test_calibration_error_by_hand() -> None:
    """Three answers of confidence 0.9, two of them right; one of 0.7, wrong: 3/4 |0.9 - 2/3| + 1/4 |0.7 - 0|."""
    logits = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.3, 0.7]]).log()
    metrics = measure(logits, torch.tensor([0, 1, 1, 0]), 2)
    assert metrics.calibration_error == pytest.approx(100 * (0.75 * (0.9 - 2 / 3) + 0.25 * 0.7), rel=1e-5)
    assert metrics.top1 == 50
    assert metrics.top5 is None


def test_calibration_error_in_fifteen_bins(answers: tuple[Tensor, Tensor]) -> None:
    logits, labels = answers
    confidence, predicted = logits.softmax(1).max(1)
    bins, error = (confidence * 15).ceil(), 0.0
    for one in bins.unique():
        inside = bins == one
        gap = (predicted[inside] == labels[inside]).float().mean() - confidence[inside].mean()
        error += float(gap.abs() * inside.float().mean())
    assert measure(logits, labels, 10).calibration_error == pytest.approx(100 * error, rel=1e-4)


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [
        (81, 263, 25.53, 36.62),
        (15, 148, 6.24, 16.05),
        (0, 20, 0.0, 16.11),
        (1, 29, 0.61, 17.18),
        (20, 20, 83.89, 100.0),
    ],
)
def test_interval_is_wilsons(right: int, images: int, low: float, high: float) -> None:
    """The examples of Newcombe 1998, Table I, method 3, and one of them mirrored."""
    metrics = Metrics(images, 100 * right / images, None, 0.0, 0.0, (), ())
    assert metrics.interval == pytest.approx((low, high), abs=0.006)


def test_summary_is_plain(answers: tuple[Tensor, Tensor]) -> None:
    metrics = measure(*answers, 10)
    assert list(metrics.summary()) == ["images", "top1", "top5", "loss", "calibration_error"]
    assert {type(v) for v in metrics.summary().values()} <= {int, float}
    assert "top5" not in replace(metrics, top5=None).summary()


def test_evaluates_in_eval_mode_and_leaves_the_model_as_it_was() -> None:
    images, labels = torch.randn(10, 1, 4, 4), torch.arange(10) % 3
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Dropout(0.9), nn.Linear(16, 3))
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loader = DataLoader(TensorDataset(images, labels.int()), batch_size=4)

    collected = collect(model, loader)
    assert [part.training for part in model] == [True, False, True, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert (collected.logits.dtype, collected.labels.dtype) == (torch.float32, torch.long)
    assert not collected.logits.requires_grad

    torch.testing.assert_close(collected.logits, model.eval()(images))
    assert torch.equal(collected.labels, labels)
    assert evaluate(model, loader, 3) == measure(*collected, 3)


def test_autocast_answers_in_float32() -> None:
    model, images = nn.Linear(64, 3), torch.randn(5, 64)
    low = collect(model, [(images, torch.zeros(5))], "cpu", torch.bfloat16).logits
    assert low.dtype == torch.float32
    assert torch.equal(low, low.bfloat16().float())
    torch.testing.assert_close(low, model(images).detach(), atol=0.05, rtol=0.05)


def test_errors_say_what_to_do() -> None:
    model, batch = nn.Linear(4, 3), (torch.randn(2, 4), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="no batches"):
        collect(model, [])
    with pytest.raises(ValueError, match=r"\(2, 3\), but num_classes=10"):
        evaluate(model, [batch], 10)
    with pytest.raises(ValueError, match=r"shape \(2, 4, 1\)"):
        collect(nn.Unflatten(1, (4, 1)), [batch])
    with pytest.raises(ValueError, match="type tuple"):
        collect(nn.LSTM(4, 3), [batch])
    logits = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="labels from 0 to 3"):
        measure(logits, torch.tensor([0, 3]), 3)
    with pytest.raises(ValueError, match=r"labels of shape \(1,\)"):
        measure(logits, torch.tensor([0]), 3)
    with pytest.raises(ValueError, match="no images"):
        measure(logits[:0], torch.tensor([]), 3)
    with pytest.raises(ValueError, match="1 of 2 images are not finite"):
        measure(torch.tensor([[0.0, 1.0], [0.0, torch.nan]]), torch.tensor([0, 1]), 2)
    with pytest.raises(ValueError, match="num_classes=1"):
        measure(logits[:, :1], torch.tensor([0, 0]), 1)
