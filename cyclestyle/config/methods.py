"""The options of each training method: a dataclass a method, chosen by `method.name`, and the table of all methods."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

AdversarialName = Literal["lsgan", "nonsaturating", "hinge", "wgan"]

VGG_CONVOLUTIONS = (2, 2, 4, 4, 4)
"""Of VGG19, a block each (Simonyan and Zisserman 2015, table 1, column E): relu1_1 .. relu5_4 follow them."""


@dataclass(frozen=True, kw_only=True)
class PerceptualConfig:
    """What VGG19 compares, where a `content_...` or `style_...` term has a weight."""

    file: str | None = None
    """File of torchvision's VGG19 weights; null: where torch keeps what it once downloaded."""
    content_layers: tuple[str, ...] = ("relu4_2",)
    """Whose features the translation shares with its source (Gatys et al. 2016): relu1_1 to relu5_4."""
    style_layers: tuple[str, ...] = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
    """Whose Gram matrices the translation shares with an image of the target domain (Gatys et al. 2016)."""


@dataclass(frozen=True, kw_only=True)
class ContrastConfig:
    """The contrastive term: places in a translation know their places in the source (Park et al. 2020)."""

    loss: Literal["nce", "hdce"] = "nce"
    """nce: InfoNCE; hdce: without the right place below the fraction, hard negatives weigh more (Jung et al. 2022)."""
    layers: tuple[str, ...] = ("image", "down_1", "down_2", "block_1", "block_middle")
    """Of the generator, whose features are compared: image, down_1, down_2, .., and of a ResNet block_1, .. and
    block_middle; the default is CUT's 0, 4, 8, 12, 16."""
    num_places: int = 256
    """Places of a layer that are compared, the same in all images of a batch."""
    temperature: float = 0.07
    """What similarities are divided by: the lower, the more the nearest wrong place counts."""
    width: int = 256
    """Channels of the two-layer network on each layer's features, hidden and out."""
    hardness: float = 50.0
    """hdce: temperature of the negatives' weights; the lower, the more the hardest count (the paper: 50 down to 10)."""


@dataclass(frozen=True, kw_only=True)
class OneWayWeights:
    """Factor of each loss term; 0 switches a term off. Each term has this name in the logs too, weight included."""

    adversarial_ab: float = 1.0
    """gen_ab fools disc_b."""
    discriminator_b: float = 0.5
    """disc_b tells real_b from fake_b; halved in the papers."""
    gradient_penalty: float = 0.0
    """Gradient penalty on mixed samples (WGAN needs it; 10 for one_centered, 0.01 to 1 for zero_centered)."""
    r1: float = 0.0
    """Gradient penalty on real images, half its squared norm (Mescheder et al. 2018): 0.1 to 10."""
    consistency_ab: float = 0.0
    """L1 between real_a and fake_b, both averaged down to `method.consistency_size`: keeps coarse colours and light."""
    content_ab: float = 0.0
    """Mean squared difference of VGG19's features of real_a and fake_b: keeps what is seen."""
    style_ab: float = 0.0
    """Squared difference of Gram matrices of VGG19's features of real_b and fake_b: the look of the target."""
    total_variation_ab: float = 0.0
    """Mean absolute difference of neighbouring pixels of fake_b: smooth where nothing else asks for detail."""


@dataclass(frozen=True, kw_only=True)
class TwoWayWeights(OneWayWeights):
    """Factor of each loss term; 0 switches a term off. Each term has this name in the logs too, weight included."""

    adversarial_ba: float = 1.0
    """gen_ba fools disc_a."""
    discriminator_a: float = 0.5
    """disc_a tells real_a from fake_a; halved in the papers."""
    consistency_ba: float = 0.0
    """As `consistency_ab`, of real_b and fake_a."""
    content_ba: float = 0.0
    """As `content_ab`, of real_b and fake_a."""
    style_ba: float = 0.0
    """As `style_ab`, of real_a and fake_a."""
    total_variation_ba: float = 0.0
    """As `total_variation_ab`, of fake_a."""


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """What all methods have: discriminators that judge translations, and terms that any generator may have."""

    name: str = ""  # each says its own
    """Which method; each brings its own options."""
    adversarial: AdversarialName = "lsgan"
    """Adversarial loss: lsgan (the papers'), nonsaturating (logits), hinge or wgan (needs a gradient penalty)."""
    gradient_penalty: Literal["one_centered", "zero_centered"] = "zero_centered"
    """Form of the penalty on mixed samples: one_centered (Gulrajani et al. 2017) or zero_centered (UVCGANv2)."""
    pool_size: int = 50
    """Number of past translations a domain that the discriminators are shown; 0 shows only the newest."""
    consistency_size: int = 32
    """Pixels of the shorter side at which the `consistency_...` terms compare."""
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    weights: OneWayWeights = field(default_factory=OneWayWeights)


@dataclass(frozen=True, kw_only=True)
class CycleGANWeights(TwoWayWeights):
    """Factor of each loss term; 0 switches a term off. Each term has this name in the logs too, weight included."""

    cycle_a: float = 10.0
    """L1 between real_a and gen_ba(gen_ab(real_a))."""
    cycle_b: float = 10.0
    """L1 between real_b and gen_ab(gen_ba(real_b))."""
    identity_a: float = 5.0
    """L1 between real_a and gen_ba(real_a): keeps colours (0.5 * cycle in the paper)."""
    identity_b: float = 5.0
    """L1 between real_b and gen_ab(real_b): keeps colours (0.5 * cycle in the paper)."""


@dataclass(frozen=True, kw_only=True)
class CycleGANConfig(MethodConfig):
    """CycleGAN (Zhu et al. 2017)."""

    name: str = "cyclegan"
    """Which method; each brings its own options."""
    weights: CycleGANWeights = field(default_factory=CycleGANWeights)


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(MethodConfig):
    """What methods have that keep content by contrast."""

    pool_size: int = 0
    """Number of past translations that discriminators are shown; 0, as in the authors' code, shows only the newest."""
    contrast: ContrastConfig = field(default_factory=ContrastConfig)


@dataclass(frozen=True, kw_only=True)
class CUTWeights(OneWayWeights):
    """Factor of each loss term; 0 switches a term off. Each term has this name in the logs too, weight included."""

    nce_ab: float = 0.5
    """Contrastive term between real_a and fake_b (0.5 in CUT, 10 in FastCUT)."""
    nce_identity_b: float = 0.5
    """Contrastive term between real_b and gen_ab(real_b): keeps colours (0.5 in CUT, 0 in FastCUT)."""
    src_ab: float = 0.0
    """Similarities between places are in fake_b as they are in real_a (SRC, Jung et al. 2022)."""


@dataclass(frozen=True, kw_only=True)
class CUTConfig(ContrastiveConfig):
    """CUT and FastCUT (Park et al. 2020): one generator, one discriminator, content kept by contrast."""

    name: str = "cut"
    """Which method; each brings its own options."""
    flip_equivariance: bool = False
    """Mirror half of the images before translation, and their features after: FastCUT's regularisation."""
    weights: CUTWeights = field(default_factory=CUTWeights)


@dataclass(frozen=True, kw_only=True)
class DCLGANWeights(TwoWayWeights):
    """Factor of each loss term; 0 switches a term off. Each term has this name in the logs too, weight included."""

    nce_ab: float = 2.0
    """Contrastive term between real_a and fake_b."""
    nce_ba: float = 2.0
    """Contrastive term between real_b and fake_a."""
    src_ab: float = 0.0
    """Similarities between places are in fake_b as they are in real_a (SRC, Jung et al. 2022)."""
    src_ba: float = 0.0
    """Similarities between places are in fake_a as they are in real_b (SRC, Jung et al. 2022)."""
    identity_a: float = 1.0
    """L1 between real_a and gen_ba(real_a): keeps colours."""
    identity_b: float = 1.0
    """L1 between real_b and gen_ab(real_b): keeps colours."""


@dataclass(frozen=True, kw_only=True)
class DCLGANConfig(ContrastiveConfig):
    """DCLGAN (Han et al. 2021): two generators, each direction's content kept by contrast, without cycles."""

    name: str = "dclgan"
    """Which method; each brings its own options."""
    contrast: ContrastConfig = field(
        default_factory=lambda: ContrastConfig(layers=("down_1", "down_2", "block_1", "block_middle"))
    )
    weights: DCLGANWeights = field(default_factory=DCLGANWeights)


@dataclass(frozen=True)
class MethodEntry:
    """A method, by its options and its class."""

    options: type[MethodConfig]
    implementation: str
    """module:class, imported when a method is built: a config is read without torch."""


METHODS: dict[str, MethodEntry] = {
    "cyclegan": MethodEntry(CycleGANConfig, "cyclestyle.methods.cyclegan:CycleGAN"),
    "cut": MethodEntry(CUTConfig, "cyclestyle.methods.cut:CUT"),
    "dclgan": MethodEntry(DCLGANConfig, "cyclestyle.methods.dclgan:DCLGAN"),
}
"""`method.name` -> what it is. A new method is one class and one entry here, and a dataclass for options of its own."""


def term_names(weights: OneWayWeights) -> tuple[str, ...]:
    """Every loss term that a method may have, as it is logged (penalties with the judged domain behind: r1_b)."""
    return tuple(each.name for each in fields(weights))


def active_terms(weights: OneWayWeights) -> tuple[str, ...]:
    """Those that have a weight."""
    return tuple(name for name in term_names(weights) if getattr(weights, name))


def vgg_layers() -> tuple[str, ...]:
    """relu1_1 .. relu5_4, in their order."""
    return tuple(
        f"relu{block}_{number + 1}" for block, count in enumerate(VGG_CONVOLUTIONS, 1) for number in range(count)
    )
