"""What methods with discriminators share: the game, its safeguards, and terms that any generator may have.

A method of this family says which generators there are, what they make of a batch and what keeps the content; the
discriminators, what they are shown, their penalties, and the generators' terms beside the method's own are here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cyclestyle.batch import Domain, UnpairedBatch
from cyclestyle.config.methods import MethodConfig
from cyclestyle.config.schema import DiscriminatorConfig, GeneratorConfig
from cyclestyle.distributed import sum_in_place
from cyclestyle.losses import perceptual, regularizers
from cyclestyle.losses.adversarial import ADVERSARIAL, accuracy, draw_mix, gradient_penalty, r1
from cyclestyle.losses.augmentation import augment, draw_augment
from cyclestyle.losses.widening import widened
from cyclestyle.methods.base import Method
from cyclestyle.methods.image_pool import ImagePool
from cyclestyle.methods.perceptual_network import load_vgg19
from cyclestyle.networks.build import build_discriminator, build_generator
from cyclestyle.networks.layers import mixes_images
from cyclestyle.networks.recomputing import Recomputable

_ADAPT_EVERY = 4  # steps, as in Karras et al. 2020
_FORGET = 0.05  # share of each reading in the running scores that the augmentation goes by


@dataclass
class Translated:
    """What a method's generators made of one batch, in fp32, with gradients to the generators.

    Attributes:
        fakes: direction -> translations, N x C x H x W, each over its source: "ab" is fake_b.
        scores: mean scores and accuracy of the discriminators, filled in by the discriminators' terms.
    """

    fakes: dict[str, Tensor]
    scores: dict[str, Tensor] = field(default_factory=dict, kw_only=True)


class AdversarialMethod(Method):
    """Generators whose translations are judged, each by the discriminator of its target domain.

    Args:
        config: the `method` section.
        generator, discriminator: the sections of the networks, the same for both directions.
        channels: of the images.
        seed: of pools and draws; weights come from torch's global random state.

    Raises:
        ConfigError, CheckpointError: VGG19's weights are asked for, and are not there or others.
    """

    gen_ab: Recomputable
    gen_ba: Recomputable  # of methods that have both

    def __init__(
        self,
        config: MethodConfig,
        generator: GeneratorConfig,
        discriminator: DiscriminatorConfig,
        channels: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.judging = discriminator
        self.adversarial = ADVERSARIAL[config.adversarial]
        self.weights: dict[str, float] = asdict(config.weights)
        for name in self.generators:
            self.add_module(name, build_generator(generator, channels))
        for domain in self.judged:
            self.add_module(f"disc_{domain}", build_discriminator(discriminator, channels))
            self.add_module(f"pool_{domain}", ImagePool(config.pool_size, seed + "ab".index(domain)))
        self._mixing = torch.Generator().manual_seed(seed + 2)
        self._showing = torch.Generator().manual_seed(seed + 3)
        if discriminator.augment_adaptive:
            self.adapt_every = _ADAPT_EVERY
            for domain in self.judged:
                start = torch.tensor(discriminator.augment_probability)
                self.register_buffer(f"augment_probability_{domain}", start)
                self.register_buffer(f"augment_scores_{domain}", torch.zeros(3))  # running, of `adapt`'s three sets
        self.register_load_state_dict_pre_hook(_fit_strengths)
        self.vgg = self._perceptual_network()

    def _perceptual_network(self) -> nn.Module | None:
        """VGG19, where a term asks for it; frozen, and no part of the state."""
        layers: list[str] = []
        for kind, wanted in (
            ("content", self.config.perceptual.content_layers),
            ("style", self.config.perceptual.style_layers),
        ):
            if any(self.weights[f"{kind}_{direction}"] for direction in self.directions):
                layers += wanted
        return load_vgg19(self.config.perceptual.file, list(dict.fromkeys(layers))) if layers else None

    @property
    def judged(self) -> tuple[Domain, ...]:
        """Domains with a discriminator, "a" before "b": the targets of the generators."""
        domains: tuple[Domain, ...] = ("a", "b")
        return tuple(domain for domain in domains if _direction_to(domain) in self.directions)

    def _disc(self, domain: str) -> nn.Module:
        return self.get_submodule(f"disc_{domain}")

    def networks_of(self, player: str) -> list[nn.Module]:
        """See `Method`; methods with further networks add theirs."""
        names = self.generators if player == "generators" else [f"disc_{domain}" for domain in self.judged]
        return [self.get_submodule(name) for name in names]

    # ------------------------------------------------------------------------------------------------- the game

    @property
    def _center(self) -> float:
        return 1.0 if self.config.gradient_penalty == "one_centered" else 0.0

    def draw(self, batch: UnpairedBatch) -> dict[str, Tensor]:
        """What the pools do with the translations (each has the size of its source), the penalty's mixing, and what
        the discriminators are shown of three sets of images: translations, to the generator; real and translations."""
        draws: dict[str, Tensor] = {}
        for domain in self.judged:
            pool = self.get_submodule(f"pool_{domain}")
            assert isinstance(pool, ImagePool)
            draws[f"pool_{domain}"] = pool.draw(_source(batch, domain).shape)
            if self.weights["gradient_penalty"]:
                draws[f"mix_{domain}"] = draw_mix(len(batch), center=self._center, generator=self._mixing)
            draws |= self._draw_shown(domain, 3 * len(batch), _source(batch, domain).shape[1:])
        return draws

    def _draw_shown(self, domain: str, num_images: int, shape: torch.Size) -> dict[str, Tensor]:
        draws = {}
        if self.judging.augment:
            draws[f"augment_{domain}"] = draw_augment(num_images, self.judging.augment, self._showing)
        if self.judging.noise:
            draws[f"noise_{domain}"] = torch.randn((num_images, *shape), generator=self._showing)
        return draws

    def _shown(self, domain: str, images: Tensor, draws: Mapping[str, Tensor], third: int) -> Tensor:
        """What the discriminator of a domain sees of images, by the first, second or last third of the draws."""
        if self.judging.augment:
            draw = draws[f"augment_{domain}"].chunk(3)[third]
            images = augment(images, draw, self.judging.augment, self._augment_probability(domain))
        if self.judging.noise:
            images = images + self.judging.noise * draws[f"noise_{domain}"].chunk(3)[third]
        return images

    def _augment_probability(self, domain: str) -> float | Tensor:
        if not self.judging.augment_adaptive:
            return self.judging.augment_probability
        return self.get_buffer(f"augment_probability_{domain}")

    def terms(self, player: str, batch: UnpairedBatch, outputs: Any) -> dict[str, Tensor]:
        """See `Method`; the terms' names are those of the config's `weights`."""
        if player == "generators":
            terms = {**self._adversarial_terms(batch, outputs), **self.own_terms(batch, outputs)}
            terms |= self._common_terms(batch, outputs)
            return {name: self.weights[name] * term for name, term in terms.items()}
        return self._discriminator_terms(batch, outputs)

    @abstractmethod
    def own_terms(self, batch: UnpairedBatch, outputs: Any) -> dict[str, Tensor]:
        """What else this method's generators minimise, each term by the name of its weight, not yet weighted.

        Terms without a weight are left out.
        """

    def _adversarial_terms(self, batch: UnpairedBatch, outputs: Translated) -> dict[str, Tensor]:
        return {
            f"adversarial_{direction}": self.adversarial.generator(
                self._disc(direction[-1])(self._shown(direction[-1], fake, batch.draws, 0))
            )
            for direction, fake in outputs.fakes.items()
        }

    def _discriminator_terms(self, batch: UnpairedBatch, outputs: Translated) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for domain in self.judged:
            disc, pool = self._disc(domain), self.get_submodule(f"pool_{domain}")
            fake = outputs.fakes[_direction_to(domain)].detach()
            fake = pool.query(fake, batch.draws[f"pool_{domain}"])  # type: ignore[operator]
            real = self._shown(domain, _target(batch, domain), batch.draws, 1)
            fake = self._shown(domain, fake, batch.draws, 2)
            on_real, on_fake = _judge(disc, real, fake)
            loss = self.adversarial.discriminator(on_real, on_fake)
            terms[f"discriminator_{domain}"] = self.weights[f"discriminator_{domain}"] * loss
            outputs.scores[f"score_real_{domain}"] = _mean_score(on_real)
            outputs.scores[f"score_fake_{domain}"] = _mean_score(on_fake)
            if self.adversarial.boundary is not None:
                outputs.scores[f"accuracy_{domain}"] = accuracy(on_real, on_fake, self.adversarial.boundary)
            # Penalties hold where the discriminator looks: on images as they are shown to it.
            if self.weights["gradient_penalty"]:
                mix = batch.draws[f"mix_{domain}"]
                penalty = gradient_penalty(disc, real, fake, center=self._center, mix=mix)
                terms[f"gradient_penalty_{domain}"] = self.weights["gradient_penalty"] * penalty
            if self.weights["r1"]:
                terms[f"r1_{domain}"] = self.weights["r1"] * r1(disc, real)
        return terms

    # ------------------------------------------------------------------------------- terms that any generator may have

    def _common_terms(self, batch: UnpairedBatch, outputs: Translated) -> dict[str, Tensor]:
        """Coarse consistency, VGG's content and style, total variation; those that have a weight."""
        terms: dict[str, Tensor] = {}
        for direction, fake in outputs.fakes.items():
            source, target = _source(batch, direction[-1]), _target(batch, direction[-1])
            if self.weights[f"consistency_{direction}"]:
                found = regularizers.low_frequency(fake, source, self.config.consistency_size)
                terms[f"consistency_{direction}"] = found
            terms |= self._perceptual_terms(direction, fake, source, target)
            if self.weights[f"total_variation_{direction}"]:
                terms[f"total_variation_{direction}"] = perceptual.total_variation(fake)
        return terms

    def _perceptual_terms(self, direction: str, fake: Tensor, source: Tensor, target: Tensor) -> dict[str, Tensor]:
        wanted = {
            "content": (perceptual.content, source, self.config.perceptual.content_layers),
            "style": (perceptual.style, target, self.config.perceptual.style_layers),
        }
        wanted = {kind: each for kind, each in wanted.items() if self.weights[f"{kind}_{direction}"]}
        if not wanted:
            return {}
        assert self.vgg is not None, "a weight asks for it"
        seen, terms = self.vgg(fake), {}
        for kind, (distance, reference, layers) in wanted.items():
            with torch.no_grad():
                kept = self.vgg(reference)
            terms[f"{kind}_{direction}"] = distance([seen[name] for name in layers], [kept[name] for name in layers])
        return terms

    # ------------------------------------------------------------------------------------------ adaptive augmentation

    def held_out_domains(self) -> tuple[Domain, ...]:
        """See `Method`."""
        return self.judged if self.judging.augment_adaptive else ()

    @torch.no_grad()
    def adapt(
        self, batch: UnpairedBatch, translations: Mapping[str, Tensor], held_out: Mapping[Domain, Tensor]
    ) -> None:
        """Raise the probability of augmentation where a discriminator knows its training images, else lower it.

        Karras et al. 2020, eq. 1: r_v = (E[D_train] - E[D_held_out]) / (E[D_train] - E[D_translations]) against
        `augment_target`, in running means; it is multiplied out, since a blind discriminator makes the fraction's
        bottom vanish. One that rates translations no lower than training images knows nothing, whatever it makes of
        held-out images. Scores that are not finite, as in a step that is skipped, count for nothing.
        """
        for domain in self.judged:
            disc, draws = self._disc(domain), self._draw_shown(domain, 3 * len(batch), batch.real_a.shape[1:])
            draws = {name: draw.to(batch.real_a.device) for name, draw in draws.items()}
            sets = (_target(batch, domain), held_out[domain], translations[_direction_to(domain)])
            was_training = disc.training
            disc.eval()  # power iterations and running statistics stay as they are
            means = [_mean_score(disc(self._shown(domain, images, draws, third))) for third, images in enumerate(sets)]
            disc.train(was_training)
            newest = torch.stack(means)
            count = torch.full_like(newest[:1], len(batch))
            sum_in_place([newest, count])
            scores = self.get_buffer(f"augment_scores_{domain}")  # of any scale: only the sign of the excess counts
            is_finite = newest.isfinite().all()
            scores.copy_(torch.where(is_finite, scores.lerp(newest.to(scores), _FORGET), scores))
            train, held, fake = scores.unbind()
            excess = torch.minimum((train - held) - self.judging.augment_target * (train - fake), train - fake)
            by = excess.sign() * count[0] * self.adapt_every / self.judging.augment_images
            probability = self.get_buffer(f"augment_probability_{domain}")
            probability.copy_(torch.where(is_finite, (probability + by).clamp(0, 1), probability))

    # ------------------------------------------------------------------------------------------------- the loop's side

    def observations(self, outputs: Any) -> dict[str, Tensor]:
        """Mean scores of real and shown fake images (LSGAN pulls them towards 1 and 0); share of right decisions; how
        likely augmentation is, where that adapts."""
        observed = dict(outputs.scores)
        if self.judging.augment_adaptive:
            for domain in self.judged:
                observed[f"augment_{domain}"] = self.get_buffer(f"augment_probability_{domain}").clone()
        return observed

    def translations(self, outputs: Any) -> dict[str, Tensor]:
        """See `Method`."""
        return {direction: fake.detach() for direction, fake in outputs.fakes.items()}

    def get_extra_state(self) -> dict[str, Any]:
        """The random states of the gradient penalty's mixing and of what discriminators are shown."""
        return {"mixing": self._mixing.get_state(), "showing": self._showing.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """See `get_extra_state`."""
        self._mixing.set_state(state["mixing"].cpu())
        if "showing" in state:  # not in checkpoints of version 0.1
            self._showing.set_state(state["showing"].cpu())


def _fit_strengths(method: nn.Module, state: dict[str, Any], *_: Any) -> None:
    """Adaptive augmentation may be turned on and off between two starts: then its buffers begin anew, or are dropped.

    A hook of `load_state_dict`, which hands it the state to load.
    """
    own = {name: buffer for name, buffer in method.named_buffers(recurse=False) if name.startswith("augment_")}
    for name in [name for name in state if name.startswith("augment_") and name not in own]:
        del state[name]
    for name, buffer in own.items():
        state.setdefault(name, buffer)


def translate(generator: nn.Module, images: Tensor, same: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """`generator` on images to translate and on images to leave as they are, in fp32 also under autocast.

    They share one pass where that changes nothing.
    """
    if same is None:
        return widened(generator(images)), None
    if mixes_images(generator):
        return widened(generator(images)), widened(generator(same))
    translated, left = widened(generator(torch.cat([images, same]))).chunk(2)
    return translated, left


def _direction_to(domain: str) -> str:
    return "ba" if domain == "a" else "ab"


def _source(batch: UnpairedBatch, domain: str) -> Tensor:
    """The images whose translations the discriminator of `domain` judges."""
    return batch.real_b if domain == "a" else batch.real_a


def _target(batch: UnpairedBatch, domain: str) -> Tensor:
    """The real images of `domain`."""
    return batch.real_a if domain == "a" else batch.real_b


def _judge(disc: nn.Module, real: Tensor, fake: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Score maps of real and fake images, one a scale."""
    if mixes_images(disc):
        return disc(real), disc(fake)
    halves = [scores.chunk(2) for scores in disc(torch.cat([real, fake]))]
    return [half[0] for half in halves], [half[1] for half in halves]


def _mean_score(maps: list[Tensor]) -> Tensor:
    return torch.stack([scores.detach().float().mean() for scores in maps]).mean()
