"""What happens to an image before the network: against torchvision's own transforms, and against the recipe."""

from dataclasses import replace

import pytest
import torch
from torchvision.transforms import v2

from backbones.data import Lighting, eval_transform, mixer, open_data, preprocessing_for, split, train_transform
from backbones.records import DataInfo, Preprocessing, Recipe

PLAIN = Recipe(source="none", epochs=1, batch_size=1, lr=0.1)
AS_IS = Preprocessing(3, (16, 16), (0.0,) * 3, (1.0,) * 3)
INFO = DataInfo("any", ("a", "b"), 3, None, (0.4, 0.5, 0.6), (0.2, 0.3, 0.1), {"train": 2}, "none", mirror=True)


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(3, 300, 401), (3, 97, 60), (3, 64, 64)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest-exact"])
def test_evaluation_is_torchvisions(shape: tuple[int, ...], mode: str) -> None:
    preprocessing = Preprocessing(
        3, (56, 56), (0.4, 0.5, 0.6), (0.2, 0.3, 0.1), mode.removesuffix("-exact"), crop=0.875
    )
    theirs = v2.Compose(
        [
            v2.Resize(64, interpolation=v2.InterpolationMode(mode), antialias=True),
            v2.CenterCrop(56),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )
    image = noise(*shape)
    torch.testing.assert_close(eval_transform(preprocessing)(image), theirs(image))


def test_whole_image_is_resized_to_size() -> None:
    image = noise(3, 20, 20)
    expected = v2.functional.resize(image, [16, 16], antialias=True) / 255
    torch.testing.assert_close(eval_transform(AS_IS)(image), expected)
    torch.testing.assert_close(train_transform(AS_IS, PLAIN, INFO)(image), expected)
    same = noise(3, 16, 16)
    torch.testing.assert_close(eval_transform(AS_IS)(same), same / 255)


@pytest.mark.parametrize("size", [(24, 60), (60, 24)])
def test_crop_that_is_not_square(size: tuple[int, int]) -> None:
    """The middle of a white image with a black frame is white."""
    image = torch.full((3, 100, 130), 255, dtype=torch.uint8)
    image[:, :8] = image[:, -8:] = image[:, :, :8] = image[:, :, -8:] = 0
    inside = eval_transform(replace(AS_IS, size=size, crop=0.75))(image)
    assert inside.shape == (3, *size)
    assert (inside == 1).all()
    assert (eval_transform(replace(AS_IS, size=size, crop=0.99))(image) == 0).any()


def test_normalised_by_the_data() -> None:
    data = open_data("digits")
    transform = eval_transform(preprocessing_for(data.info, (8, 8), 1))
    pixels = torch.stack([transform(data.train[i * 1297 // 256][0]) for i in range(256)])
    assert pixels.mean().item() == pytest.approx(0, abs=1e-4)
    assert pixels.std().item() == pytest.approx(1, abs=1e-4)


def test_preprocessing_for() -> None:
    assert preprocessing_for(INFO, (8, 9), 3, 0.8) == Preprocessing(3, (8, 9), INFO.mean, INFO.std, crop=0.8)
    gray = replace(INFO, channels=1, mean=(0.4,), std=(0.2,))
    assert preprocessing_for(gray, (8, 8), 3).mean == (0.4,) * 3
    with pytest.raises(ValueError, match=r"opened with 3 channels, the network takes 1; open it with .*channels=1"):
        preprocessing_for(INFO, (8, 8), 1)


def test_errors() -> None:
    with pytest.raises(ValueError, match="for 3 channels has 1 means and 3 deviations"):
        eval_transform(replace(AS_IS, mean=(0.5,)))
    with pytest.raises(ValueError, match=r"share above 0 up to 1, such as 0.875; it was 87.5"):
        train_transform(replace(AS_IS, crop=87.5), PLAIN, INFO)
    with pytest.raises(ValueError, match=r"lighting=0.1; give colours=colours_of\(data.train\)"):
        train_transform(AS_IS, replace(PLAIN, lighting=0.1), INFO)
    with pytest.raises(ValueError, match=r"scale=\(0.5, 1.0\).*begin at 1 or more"):
        train_transform(AS_IS, replace(PLAIN, crop="side", scale=(0.5, 1.0)), INFO)


def test_mirror_only_where_the_class_stays() -> None:
    image = noise(3, 16, 16)
    always = replace(PLAIN, hflip=1.0)
    torch.testing.assert_close(train_transform(AS_IS, always, INFO)(image), image.flip(-1) / 255)
    torch.testing.assert_close(train_transform(AS_IS, always, replace(INFO, mirror=False))(image), image / 255)
    torch.manual_seed(0)
    half = train_transform(AS_IS, replace(PLAIN, hflip=0.5), INFO)
    mirrored = sum(torch.allclose(half(image), image.flip(-1) / 255) for _ in range(200))
    assert 70 < mirrored < 130


def test_pad_then_crop() -> None:
    """A white image is shifted by up to 4 pixels either way, every shift is met, and black comes in."""
    torch.manual_seed(0)
    white = torch.full((3, 16, 16), 255, dtype=torch.uint8)
    transform = train_transform(AS_IS, replace(PLAIN, crop="pad", crop_pad=4), INFO)
    rows = set()
    for _ in range(200):
        image = transform(white)
        assert image.shape == (3, 16, 16)
        assert set(image.unique().tolist()) <= {0.0, 1.0}
        lit = image[0].amax(1).nonzero()
        rows.add((lit.min().item(), lit.max().item()))
    assert rows == {*((top, 15) for top in range(5)), *((0, 15 - below) for below in range(5))}


def test_side_then_crop() -> None:
    """A ramp from left to right: the scale shows in its slope, the place of the crop in its beginning."""
    torch.manual_seed(0)
    ramp = torch.arange(0, 256, 2, dtype=torch.uint8).expand(3, 96, 128)
    transform = train_transform(AS_IS, replace(PLAIN, crop="side", scale=(1.0, 3.0)), INFO)
    images = [transform(ramp) for _ in range(200)]
    assert {tuple(image.shape) for image in images} == {(3, 16, 16)}
    shorter = torch.tensor([96 * 2 / (255 * (image[0, 8, 11] - image[0, 8, 4]).item() / 7) for image in images])
    assert shorter.min() > 15
    assert shorter.max() < 50
    assert shorter.min() < 19
    assert shorter.max() > 44
    assert min(image[0, 8, 0].item() for image in images) < 0.1
    assert max(image[0, 8, 15].item() for image in images) > 0.9


def test_area_is_torchvisions() -> None:
    image = noise(3, 50, 70)
    recipe = replace(PLAIN, crop="area", scale=(0.2, 0.9), ratio=(0.5, 2.0))
    torch.manual_seed(3)
    ours = train_transform(AS_IS, recipe, INFO)(image)
    torch.manual_seed(3)
    theirs = v2.RandomResizedCrop((16, 16), (0.2, 0.9), (0.5, 2.0), antialias=True)(image) / 255
    torch.testing.assert_close(ours, theirs)


def test_affine_is_torchvisions_within_the_recipe() -> None:
    image = noise(3, 16, 16)
    recipe = replace(PLAIN, rotate=10.0, translate=0.25, zoom=0.2, shear=5.0)
    torch.manual_seed(3)
    ours = train_transform(AS_IS, recipe, INFO)(image)
    torch.manual_seed(3)
    bilinear = v2.InterpolationMode.BILINEAR
    theirs = v2.RandomAffine(10.0, (0.25, 0.25), (0.8, 1.2), 5.0, bilinear)(image / 255)
    torch.testing.assert_close(ours, theirs)
    assert (ours - image / 255).abs().mean() > 0.05


def test_black_comes_in_from_outside() -> None:
    """Black is 0 before it is normalised."""
    white = torch.full((1, 16, 16), 255, dtype=torch.uint8)
    gray = replace(INFO, channels=1, mean=(0.5,), std=(0.25,))
    torch.manual_seed(0)
    image = train_transform(preprocessing_for(gray, (16, 16), 1), replace(PLAIN, zoom=0.5), gray)
    assert min(image(white).min().item() for _ in range(20)) == pytest.approx(-2)


def test_lighting() -> None:
    values, vectors = torch.tensor([0.2, 0.01]), torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    image = torch.rand(2, 4, 4)
    torch.manual_seed(0)
    shifts = torch.stack([Lighting(0.1, values, vectors)(image) - image for _ in range(2000)])
    torch.testing.assert_close(shifts, shifts[:, :, :1, :1].expand_as(shifts), atol=1e-6, rtol=0)  # one shift per image
    along = shifts[:, :, 0, 0] @ vectors  # the components, which are independent
    assert along.std(0).tolist() == pytest.approx([0.02, 0.001], rel=0.1)
    colours = (torch.tensor([0.2, 0.0, 0.0]), torch.eye(3))
    shifted = train_transform(AS_IS, replace(PLAIN, lighting=0.1), INFO, colours)(noise(3, 16, 16))
    changed = (shifted - noise(3, 16, 16) / 255).abs().amax((1, 2))
    assert changed[0] > 1e-4
    assert changed[1:].tolist() == pytest.approx([0, 0], abs=1e-6)


def test_erasing() -> None:
    """A rectangle of the mean colour: 0 after it is normalised."""
    preprocessing = replace(AS_IS, mean=(0.5,) * 3)
    white = torch.full((3, 16, 16), 255, dtype=torch.uint8)
    image = train_transform(preprocessing, replace(PLAIN, reprob=1.0), INFO)(white)
    assert image.unique().tolist() == [0, 0.5]


def test_mixing() -> None:
    images, labels = torch.rand(8, 3, 16, 16), torch.arange(8) % 5
    assert mixer(PLAIN, 5) is None
    torch.manual_seed(0)
    for recipe in (replace(PLAIN, mixup=0.4), replace(PLAIN, cutmix=1.0)):
        mix = mixer(recipe, 5)
        assert mix is not None
        mixed, shares = mix(images, labels)
        assert mixed.shape == images.shape
        assert shares.shape == (8, 5)
        torch.testing.assert_close(shares.sum(1), torch.ones(8))
        own = shares[1, labels[1]].item()  # 1 follows 0, of another class
        if recipe.mixup:
            torch.testing.assert_close(mixed[1], own * images[1] + (1 - own) * images[0])
        else:
            kept = (mixed[1] == images[1]).float().mean().item()
            assert kept == pytest.approx(own, abs=1e-3)
            assert ((mixed[1] == images[1]) | (mixed[1] == images[0])).all()
    both = mixer(replace(PLAIN, mixup=0.4, cutmix=1.0), 5)
    assert both is not None
    kinds = {((both(images, labels)[0] == images).float().mean() > 0.01).item() for _ in range(30)}
    assert kinds == {True, False}


@pytest.mark.parametrize("change", [{}, {"rotate": 10.0}, {"reprob": 1.0}])
def test_a_batch_is_finished_to_the_last_bit(change: dict[str, float]) -> None:
    """Normalising waits for the batch where it comes last, and only there; the images are those of the whole chain."""
    recipe = replace(PLAIN, crop="area", **change)  # type: ignore[arg-type]
    transform = train_transform(preprocessing_for(INFO, (32, 32), 3), recipe, INFO)
    each, finish = split(transform)
    images = [noise(3, 40, 50), noise(3, 50, 40), noise(3, 90, 90)]
    torch.manual_seed(5)
    whole = torch.stack([transform(image) for image in images])
    torch.manual_seed(5)
    halves = torch.stack([each(image) for image in images])
    assert halves.dtype == (torch.float32 if change else torch.uint8)
    assert torch.equal(finish(halves), whole)
