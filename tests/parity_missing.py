"""Why a peer cannot express one of our networks, or only at some images: peer -> pattern of names -> reason."""

NONE = "pytorchcv has no such network"
ORDER = "pytorchcv concatenates the branch and the pooled map, the authors' release the pooled map and the branch"
SMALL_STRIDE = "pytorchcv strides in the 3x3 of a bottleneck on small images"
TWICE = "pytorchcv repeats the norm and ReLU of the stem in the first unit"
STEM_OF_UNIT = "pytorchcv's first activation is in the branch of the first unit, the paper's in the stem"
NO_COMPRESSION = "pytorchcv's transitions always halve the channels"
NO_BIAS = "pytorchcv's classifier has no bias; at other widths than 1 its channels are not rounded to multiples of 8"

MISSING: dict[str, dict[str, str]] = {
    "pytorchcv": {
        "lenet5*": NONE,
        "alexnet": "pytorchcv has one tower without groups",
        "zfnet*": "pytorchcv normalises before it pools, and pads otherwise",
        "vgg11_lrn": "pytorchcv's VGG has no local response normalisation",
        "vgg16_c": "pytorchcv's VGG has 3x3 convolutions only",
        "googlenet*": NONE,
        "resnet18": "pytorchcv's shortcuts are projections where the size changes (option B): see the .tv twin",
        "resnet34": "pytorchcv's shortcuts are projections where the size changes (option B): see the .tv twin",
        "plain*": "pytorchcv's ResNet always has shortcuts",
        "resnet*_sd*": "pytorchcv does not scale branches by their survival, nor pool in shortcuts",
        "inception_v2_rethinking": NONE,
        "inception_v2": "pytorchcv's first convolution is a full one: see the .caffe twin",
        "inception_v2.slim": "pytorchcv has the copy of Caffe: see the .caffe twin",
        "inception_v3": "pytorchcv has the release's network, not the paper's: see the .tv twin",
        "inception_v4": "pytorchcv has the release's order of rows and columns, not the paper's: see the .timm twin",
        "inception_resnet_v1": "pytorchcv has FaceNet's: a sixth block C without ReLU, and two matrices at the end",
        "inception_resnet_v2": "pytorchcv has the release's network, not the paper's: see the .slim twin",
        "densenet_40_12_cifar": NO_COMPRESSION,
        "densenet_100_*_cifar": NO_COMPRESSION,
        "fractalnet20_cifar": "pytorchcv pools after the last join of a block, the paper before it",
        "fractalnet40_cifar": "pytorchcv pools after the last join of a block, the paper before it",
        "fractalnet34": NONE,
        "preact_resnet18": TWICE,
        "preact_resnet34": TWICE,
        "preact_resnet50*": TWICE,
        "preact_resnet101*": TWICE,
        "preact_resnet152*": TWICE,
        "preact_resnet200": TWICE,
        "preact_resnet110_cifar": STEM_OF_UNIT,
        "preact_resnet164_cifar": SMALL_STRIDE,
        "preact_resnet1001_cifar": SMALL_STRIDE,
        "resnet164_cifar": SMALL_STRIDE,
        "resnet1001_cifar": SMALL_STRIDE,
        "squeezenet1_0_complex_bypass": "pytorchcv's bypasses are identities",
        "xception": "pytorchcv pads max-poolings on every side: see the .timm twin",
        "mobilenet_v1_conv": "pytorchcv's MobileNet is depthwise separable throughout",
        "mobilenet_v1.timm": "pytorchcv's MobileNet has ReLU, not ReLU6: see mobilenet_v1",
        "mobilenet_v2*": NO_BIAS,
        "se_resnext*_32x4d": "pytorchcv pads the max-pooling on every side: see the .timm twin",
        "senet154": "pytorchcv pads the max-pooling on every side",
        "se_vgg16": NONE,
        "se_inception*": NONE,
        "se_mobilenet_v1": NONE,
        "se_shufflenet*": NONE,
        "se_wrn_16_8": NONE,
        "se_resnet110_cifar": "pytorchcv normalises the stem twice, has no last activation, and projects in shortcuts",
        "se_resnet164_cifar": "pytorchcv normalises the stem twice, has no last activation, and strides in the 3x3",
        "nasnet_a_*_cifar": NONE,
        "nasnet_a_6_4032.timm": "pytorchcv's mean poolings leave out the padding: see nasnet_a_6_4032",
        "shufflenet*": ORDER,
    },
}

ONLY_AT: dict[str, dict[str, str]] = {  # by the peer's names
    "pytorchcv": {
        "alexnetb": "223 to 226 pixels: elsewhere its max-poolings overhang the far edge, and ours do not",
        "bninception": "223 and 224 pixels: where a map is odd, its max-poolings put out one value less than ours",
        "nasnet_4a1056": "223 and 224 pixels: its padding is fixed, ours TensorFlow's SAME",
        "nasnet_6a4032": "331 and 332 pixels: its padding is fixed, ours TensorFlow's SAME",
        "nasnet.get_nasnet": "299 and 300 pixels: its padding is fixed, ours TensorFlow's SAME",
        "efficientnet_b?b": "square images: it takes the padding of the height for the width, and the reverse",
    }
}
