"""Which networks the zoo holds, how each is built, and on what it is captured.

Weights are random: nothing is downloaded. `enliven` gives them what training would: without it some
networks say (nearly) nothing at their outputs, and a comparison of nothing proves nothing.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

WITH_BACKBONE = (
    "deeplab", "fasterrcnn", "fcn", "fcos", "keypointrcnn", "lraspp", "maskrcnn", "retinanet",
    "ssd",
)  # fmt: skip
GIANTS = ("regnet_y_128gf", "vit_h_14")

# One architecture of each family, and two where they differ much in how they are put together.
TIMM = (
    "beit_base_patch16_224", "botnet26t_256", "cait_xxs24_224", "caformer_s18", "coat_lite_mini",
    "coatnet_0_rw_224", "convformer_s18", "convit_tiny", "convmixer_768_32", "convnextv2_atto",
    "crossvit_tiny_240", "cspdarknet53", "cspresnext50", "davit_tiny", "deit3_small_patch16_224",
    "deit_tiny_distilled_patch16_224", "dla34", "dm_nfnet_f0", "dpn68", "eca_resnet33ts",
    "edgenext_small", "efficientformer_l1", "efficientformerv2_s0", "efficientnet_lite0",
    "efficientvit_b0", "efficientvit_m0", "eva02_tiny_patch14_224", "fasternet_t0", "fastvit_t8",
    "focalnet_tiny_srf", "gcvit_xxtiny", "gernet_s", "ghostnet_100", "ghostnetv2_100",
    "gmixer_24_224", "gmlp_s16_224", "halonet26t", "hardcorenas_a", "hgnetv2_b0", "hiera_tiny_224",
    "hrnet_w18_small", "inception_next_tiny", "inception_resnet_v2", "inception_v4",
    "lambda_resnet26t", "lcnet_100", "legacy_seresnet18", "levit_128s", "mambaout_femto",
    "maxvit_tiny_rw_224", "mixer_b16_224", "mobilenetv4_conv_small", "mobileone_s0", "mobilevit_s",
    "mobilevitv2_050", "mvitv2_tiny", "nasnetalarge", "nest_tiny", "nextvit_small", "pit_ti_224",
    "pnasnet5large", "poolformer_s12", "pvt_v2_b0", "rdnet_tiny", "regnetz_c16", "repghostnet_050",
    "repvgg_a0", "repvit_m0_9", "res2net50_26w_4s", "resmlp_12_224", "resnest14d", "resnetv2_50",
    "rexnet_100", "selecsls42b", "semnasnet_075", "sequencer2d_s", "shvit_s1", "skresnet18",
    "starnet_s1", "swiftformer_xs", "swinv2_cr_tiny_224", "tf_mixnet_s", "tiny_vit_5m_224",
    "tinynet_e", "tnt_s_patch16_224", "tresnet_m", "twins_pcpvt_small", "twins_svt_small",
    "visformer_tiny", "vit_relpos_small_patch16_224", "vitamin_small_224", "volo_d1_224",
    "vovnet39a", "xception41", "xcit_nano_12_p16_224",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A network of the zoo.

    Attributes:
        source: `torchvision` or `timm`.
        name: as that package calls it.
    """

    source: str
    name: str

    @property
    def key(self) -> str:
        """Names the network in files and tables."""
        return f"{self.source}/{self.name}"

    def build(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """The network in eval mode with random weights, and an example of its inputs."""
        torch.manual_seed(0)
        if self.source == "timm":
            import timm

            net = timm.create_model(self.name, pretrained=False, num_classes=1000)
            size = net.default_cfg["input_size"]
            return net.eval(), (torch.randn(2, *size),)
        from torchvision.models import get_model

        # Flags of a training that no weights come with.
        lone = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False}}
        options = {"weights": None, **lone.get(self.name, {})}
        if self.name.startswith(WITH_BACKBONE):
            options["weights_backbone"] = None
        net = get_model(self.name, **options)
        return net.eval(), _torchvision_inputs(self.name)


def _torchvision_inputs(name: str) -> tuple[Tensor, ...]:
    """The size that the network was made for, or its smallest where that is much work."""
    if name.startswith("raft"):
        return tuple(torch.rand(2, 3, 128, 128) * 2 - 1 for _ in range(2))
    if name.startswith(("mvit", "swin3d", "s3d")):
        return (torch.randn(2, 3, 16, 224, 224),)
    if name in ("mc3_18", "r2plus1d_18", "r3d_18"):
        return (torch.randn(2, 3, 16, 112, 112),)
    if "rcnn" in name or name.startswith(("fcos", "retinanet", "ssd")):
        return (torch.rand(2, 3, 320, 320),)
    size = 299 if name == "inception_v3" else 224
    return (torch.randn(2, 3, size, size),)


def zoo() -> list[Entry]:
    """Every network; the smaller packages' order is kept."""
    from torchvision.models import list_models

    names = [name for name in list_models() if not name.startswith("quantized_")]
    return [*(Entry("torchvision", n) for n in names), *(Entry("timm", n) for n in TIMM)]


def enliven(net: nn.Module, example: tuple[Tensor, ...]) -> None:
    """Give constant weights some noise, and batch norms the statistics of one batch, in place.

    Layer scales of 1e-6, biases and position tables of zero and batch norms that have seen nothing
    would hide what a wrong rule does.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in net.parameters():
            if value.numel() > 1 and bool((value == value.flatten()[0]).all()):
                level = float(value.flatten()[0])
                noise = torch.randn(value.shape, generator=generator)
                value.copy_((level if abs(level) > 0.1 else 0.5 * bool(level)) + 0.1 * noise)
        norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.train()
            norm.momentum, norm._zoo_momentum = 1.0, norm.momentum
        net(*example)
        for norm in norms:
            norm.momentum = norm._zoo_momentum
            norm.eval()
