"""The options of a run: each declared once, with its type, default and meaning; `docs/options.md` is made from here.

Frozen dataclasses read by OmegaConf. The text under a field is its description (`cyclestyle.config.describe`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from cyclestyle.config.methods import CycleGANConfig, MethodConfig

NormName = Literal["instance", "batch", "none"]
InitName = Literal["normal", "xavier", "kaiming", "orthogonal"]

SAMPLE_ROOT = "datasets/landscapes"
"""Where the sample set lives; made on the fly when a config names it and it is absent."""


@dataclass(frozen=True, kw_only=True)
class DomainConfig:
    """One kind of pictures."""

    train: str | None = None
    """Folder of training images, searched with all its sub-folders; overrides what `data.root` says."""
    test: str | None = None
    """Folder of test images: sample grids and `test.py` use them; null goes without."""
    name: str | None = None
    """What people call this domain (`--to NAME`); null: the name of the `train` folder, or a / b under `data.root`."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where images come from and what happens to them before training."""

    root: str | None = None
    """Folder that holds trainA, trainB and, if wanted, testA, testB."""
    a: DomainConfig = field(default_factory=DomainConfig)
    b: DomainConfig = field(default_factory=DomainConfig)
    channels: int = 3
    """Channels of the images: 1 grey, 3 RGB; other numbers only from TIFF and .npy files that have them."""
    resize: Literal["shorter", "squash", "none"] = "shorter"
    """How images come to `load_size`: shorter side (aspect kept), squash (both sides), none (left as they are)."""
    load_size: int = 286
    """Pixels of the shorter side (resize: shorter) or of both sides (squash) before the crop."""
    crop_size: int = 256
    """Pixels of the random square that is trained on."""
    flip: bool = True
    """Mirror half of the images left to right."""
    augment: tuple[dict[str, Any], ...] = ()
    """Further albumentations transforms after crop and flip: `[{name: ColorJitter, p: 0.3}]`, arguments by name."""
    cache: Literal["auto", "on", "off"] = "auto"
    """Keep decoded, resized images in memory; auto: where they fit `cache_limit_gb` and a quarter of what is free."""
    cache_limit_gb: float = 4.0
    """The most memory that `cache: auto` takes, in GiB."""
    num_workers: int | str = "auto"
    """Processes that prepare images: a number, or auto (by cores, device and cache). Never changes the result."""
    max_bad_fraction: float = 0.05
    """Broken files are named and skipped; more than this fraction of a folder ends the start."""


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """The network that translates; both directions have the same form."""

    name: Literal["resnet", "resnet_6", "resnet_9", "unet", "unet_128", "unet_256"] = "resnet"
    """ResNet or U-Net; resnet_6, resnet_9, unet_128, unet_256 are presets of `blocks` or `depth`."""
    filters: int = 64
    """Channels after the first convolution."""
    blocks: int | None = None
    """Residual blocks of a ResNet; null: what the preset says, 9 for plain resnet."""
    depth: int | None = None
    """Halvings of a U-Net; crops must be multiples of 2 to this power; null: the preset's, 8 for plain unet."""
    norm: NormName = "instance"
    """Normalisation of the features."""
    upsample: Literal["transpose", "resize", "subpixel"] = "transpose"
    """transpose: the paper's; resize: bilinear, then a convolution, leaves no checkerboard; subpixel: pixel shuffle."""
    antialias: bool = False
    """Blur before each halving of a ResNet (Zhang 2019), as CUT does; its antialiased doubling is upsample: resize."""
    attention: bool = False
    """Self-attention in the middle of a ResNet (Zhang et al. 2019): far places of an image see each other."""
    padding: Literal["reflect", "zero", "replicate"] = "reflect"
    """What a ResNet sees beyond the image's borders."""
    dropout: float = 0.0
    """Dropout inside residual blocks (ResNet) or middle layers (U-Net); 0.5 in pix2pix, 0 in CycleGAN."""
    init: InitName = "normal"
    """How convolutions are initialised."""
    init_gain: float = 0.02
    """Standard deviation (normal) or gain (xavier, orthogonal) of the initialisation."""


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """The network that judges; one a domain."""

    name: Literal["patchgan", "pixel", "multiscale"] = "patchgan"
    """patchgan judges overlapping patches, pixel single pixels, multiscale patches at several sizes of the image."""
    filters: int = 64
    """Channels after the first convolution."""
    layers: int = 3
    """Strided convolutions of a patchgan: 3 judge 70x70 patches, 2 34x34, 4 142x142."""
    scales: int = 2
    """Sizes that multiscale looks at: full, half, quarter, ..."""
    norm: NormName = "instance"
    """Normalisation of the features; none goes well with spectral_norm."""
    spectral_norm: bool = False
    """Divide each weight by its largest singular value (Miyato et al. 2018): steadier training."""
    antialias: bool = False
    """Blur before each halving (Zhang 2019), as CUT does; four times the arithmetic, patches of 84 pixels for 70."""
    batch_statistics: bool = False
    """Show it how much the images of a batch differ (Karras et al. 2018), against translations that are all alike;
    needs train.batch_size of 2 or more."""
    noise: float = 0.0
    """Standard deviation of normal noise on all that it sees, in images of [-1, 1]: fewer certain judgements."""
    augment: tuple[str, ...] = ()
    """DiffAugment (Zhao et al. 2020) on all that it sees, for small collections: any of color, translation, cutout."""
    augment_probability: float = 1.0
    """Of each of these, an image; with augment_adaptive where it starts (0 in its paper)."""
    augment_adaptive: bool = False
    """Raise and lower that probability (Karras et al. 2020) by how far held-out images, those of the test folders, are
    rated from training images towards translations."""
    augment_target: float = 0.5
    """augment_adaptive: where it is held; 0: held-out images are rated as training images, 1: as translations."""
    augment_images: int = 20000
    """augment_adaptive: images over which the probability goes from 0 to 1 at the fastest (500000 in the paper)."""
    init: InitName = "normal"
    """How convolutions are initialised."""
    init_gain: float = 0.02
    """Standard deviation (normal) or gain (xavier, orthogonal) of the initialisation."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam and its learning rates over the run."""

    generator_lr: float = 0.0002
    """Peak learning rate of the generators."""
    discriminator_lr: float = 0.0002
    """Peak learning rate of the discriminators."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Adam's decay rates of the first and second moment."""
    schedule: Literal["constant", "linear", "cosine", "step"] = "linear"
    """linear: flat, then straight to zero (the paper's); cosine: half a wave to zero; step: by `step_factor`."""
    decay_start: float = 0.5
    """linear, cosine: fraction of the run after which the learning rate falls (0.5: the paper's 100 + 100 epochs)."""
    step_every: int = 10000
    """step: after every so many steps the learning rate is multiplied by `step_factor`."""
    step_factor: float = 0.5
    """step: what the learning rate is multiplied by."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from near zero at the start."""
    accumulation: int = 1
    """Split each batch into so many parts, one after another, to save memory; the gradients are the same, but for CUT's
    and DCLGAN's generators, of which the last part alone meets the discriminators of after this step."""
    clip_norm: float = 0.0
    """Scale gradients down to this norm (of all generators, or all discriminators, together); 0: never."""
    max_skipped: int = 20
    """Steps whose gradients are not finite are skipped; so many in a row, and the run goes back to its newest
    checkpoint with half the learning rates."""
    max_setbacks: int = 3
    """It goes back so often; the next time it stops."""


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """Averaged generators: what sample grids, translators and `test.py` use."""

    decay: float = 0.999
    """Exponential moving average per optimizer step; 0 uses the newest weights instead."""
    warmup: bool = True
    """Average over fewer steps early on: decay is at most (1 + step) / (10 + step)."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how much at once, on what."""

    steps: int | None = None
    """Length of the run in optimizer steps; give this or `epochs`."""
    epochs: float | None = None
    """Length of the run in epochs: one shows as many images as the larger domain has; give this or `steps`."""
    batch_size: int = 1
    """Images of each domain in one optimizer step, over all processes."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the networks; auto: bf16 where the processor or GPU has it natively, else fp32."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train; auto: an NVIDIA GPU, else an Apple one, else the processor."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; each also writes both translators."""
    keep_checkpoints: int = 3
    """How many of the newest checkpoints stay on disk."""
    max_seconds: float = 0.0
    """Save and stop after so long, starting Python not counted (exit code 75); the same command goes on. 0: never."""
    timeout_seconds: float = 1800.0
    """With several processes: how long one waits for the others before it gives up; more than an evaluation takes."""
    tf32: bool = True
    """Let fp32 convolutions on NVIDIA GPUs use TF32."""
    deterministic: bool = False
    """Only deterministic algorithms on GPUs too (slower). On the processor runs repeat bit for bit anyway."""
    checkpointing: bool = False
    """Compute most of the generators' activations again for the backward pass, not keep them: a third stays; slower."""
    cuda_graph: bool = True
    """On NVIDIA GPUs: record the whole learning step once and replay it, without the launches' cost; same result."""
    compile: bool = False
    """Let torch.compile fuse the networks' layers; minutes at the start, rounding differs. For NVIDIA GPUs."""
    profile: int = 0
    """Record so many steps with torch.profiler, soon after the start, into the run folder's `profile/`; 0: none."""


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What is written down while training."""

    scalars_every: int = 50
    """Steps between rows of metrics.jsonl and points in TensorBoard; a mean over these, norms of the last."""
    samples_every: int = 500
    """Steps between sample grids (real, translated, back, identity, of fixed test images)."""
    num_samples: int = 4
    """Test images of each domain in a grid."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Scores during training, of the averaged generators on the test folders; what they say is in docs/metrics.md."""

    every: int = 1000
    """Steps between evaluations, and once at the end; 0: never."""
    num_images: int = 64
    """The most test images of each domain that are looked at, evenly over the folder."""
    extractor: Literal["builtin", "inception", "torchvision"] = "builtin"
    """Features behind FID and KID: fixed filters that are always there; torch-fidelity's or torchvision's Inception."""
    weights: str | None = None
    """File of the Inception's weights; null: where torch keeps what it once downloaded."""
    best: Literal["kid", "fid", "swd"] = "kid"
    """The score that names the best checkpoint, the lower the better."""
    direction: Literal["ab", "ba", "both"] = "ab"
    """Whose score counts for the best checkpoint: the translation from A to B, from B to A, or the mean of both."""
    least_content: float = 0.5
    """A checkpoint is no candidate for the best where the luminance correlation with the source is below this."""
    patience: int = 0
    """Stop after so many evaluations in a row without a better score; 0: train to the end."""
    least_steps: int = 0
    """Never stop early before this step."""


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Detectors of what goes wrong in training; each alarm says which knob to turn."""

    every: int = 10
    """Steps between looks at a batch and its translations; 0: no doctor."""
    on_alarm: Literal["warn", "stop"] = "warn"
    """warn: a line on stderr when an alarm starts and ends; stop: save and end the run at the first alarm."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run, whole: defaults < YAML < key=value."""

    name: str = "run"
    """Name of the run: its folder is `output_dir`/`name`."""
    seed: int = 0
    """Fixes initial weights, order of the data, augmentation and pools."""
    output_dir: str = "runs"
    """Folder of all runs."""
    data: DataConfig = field(default_factory=DataConfig)
    method: MethodConfig = field(default_factory=CycleGANConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    log: LogConfig = field(default_factory=LogConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    doctor: DoctorConfig = field(default_factory=DoctorConfig)
