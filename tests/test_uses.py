"""What people do with a backbone: take its features into a detector, embed images with it."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.ops import FeaturePyramidNetwork

import backbones
from backbones import FeatureBackbone


def test_embeddings_of_vgg16() -> None:
    model = backbones.create_model("vgg16", num_classes=0).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 64, 64)).shape == (1, 4096)


def test_feature_pyramid_of_every_usual_network() -> None:
    for name in ("resnet50", "vgg16", "resnet18.tv"):
        with torch.device("meta"):
            features = backbones.create_model(name, features_only=True, out_indices=(1, 2, 3, 4))
            maps = features(torch.empty(1, 3, 224, 320))
        assert features.feature_info.reduction() == [4, 8, 16, 32]
        assert [m.shape[2:] for m in maps] == [(56, 80), (28, 40), (14, 20), (7, 10)]


def test_output_stride_8_on_resnet50() -> None:
    with torch.device("meta"):
        maps = backbones.create_model("resnet50", output_stride=8, features_only=True)(torch.empty(1, 3, 224, 224))
    assert [m.shape[-1] for m in maps] == [112, 56, 28, 28, 28]


class Pyramid(nn.Module):
    """Our features, as torchvision's detectors want them."""

    out_channels = 32

    def __init__(self, features: FeatureBackbone) -> None:
        super().__init__()
        self.features = features
        self.pyramid = FeaturePyramidNetwork(features.feature_info.channels(), self.out_channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.pyramid(OrderedDict((str(i), m) for i, m in enumerate(self.features(images))))


def test_faster_rcnn_trains_on_our_features() -> None:
    features = backbones.create_model("resnet18.tv", features_only=True, out_indices=(1, 2, 3, 4), seed=0)
    features.backbone.freeze(stages=1)
    detector = FasterRCNN(
        Pyramid(features),
        num_classes=3,
        min_size=96,
        max_size=128,
        rpn_anchor_generator=torchvision_anchors(),
        box_roi_pool=torchvision_pool(),
    )
    boxes = torch.tensor([[10.0, 10.0, 60.0, 70.0]])
    losses = detector.train()([torch.rand(3, 96, 96)], [{"boxes": boxes, "labels": torch.tensor([1])}])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    grads = {name: p.grad for name, p in features.backbone.named_parameters()}
    assert grads["stages.3.1.branch.0.weight"].abs().sum() > 0
    assert grads["stem.0.weight"] is None
    with torch.inference_mode():
        (found,) = detector.eval()([torch.rand(3, 80, 100)])
    assert found.keys() == {"boxes", "labels", "scores"}


def torchvision_anchors() -> nn.Module:
    from torchvision.models.detection.rpn import AnchorGenerator

    return AnchorGenerator(((16,), (32,), (64,), (128,)), ((0.5, 1.0, 2.0),) * 4)


def torchvision_pool() -> nn.Module:
    from torchvision.ops import MultiScaleRoIAlign

    return MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
