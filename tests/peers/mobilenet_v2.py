"""torchvision's and timm's MobileNetV2; timm's also with the padding and the eps of the authors' release."""

from functools import partial

from timm import create_model
from torchvision.models import mobilenet_v2

IN_TIMM = {"_x0_35": "035", "_x0_5": "050", "_x0_75": "075", "": "100", "_x1_4": "140"}
PEERS = {
    f"mobilenet_v2{ours}": partial(create_model, f"mobilenetv2_{theirs}", pad_type="same", bn_eps=1e-3)
    for ours, theirs in IN_TIMM.items()
}
PEERS |= {
    f"mobilenet_v2{ours}.tv": partial(create_model, f"mobilenetv2_{theirs}") for ours, theirs in IN_TIMM.items() if ours
}
PEERS |= {"mobilenet_v2.tv": mobilenet_v2, "mobilenet_v2_x1_3.tv": partial(mobilenet_v2, width_mult=1.3)}
