"""The loss of single samples, by a finished checkpoint in Hugging Face's format or the original's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from safe_llava.checkpoints import llava as original
from safe_llava.core.errors import CHECKPOINT_AGAIN, TrainError
from safe_llava.core.files import read_json
from safe_llava.core.imports import light_transformers
from safe_llava.train.model.loss import LossModel
from safe_llava.train.samples.annotated import Features
from safe_llava.train.samples.conversation import IGNORE_INDEX


class SampleLoss:
    """Mean loss over a sample's labelled tokens in fp32, as the original's own forward pass gives it.

    Args:
        llava: a ``LlavaForConditionalGeneration`` in fp32.
        words: over how many words the softmax runs; rows of the head behind them are left out.
        image_token_id: what stands at image positions of a sample.
    """

    def __init__(self, llava: nn.Module, words: int, image_token_id: int) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._llava: Any = llava.to(self.device).eval()
        self._words = words
        self._model = LossModel(self._llava, image_token_id)

    @torch.no_grad()
    def __call__(self, sample: Features) -> float | None:
        """Return a sample's loss; None where nothing is labelled."""
        targets_T = torch.tensor(sample.labels[1:], device=self.device)
        supervised_T = targets_T != IGNORE_INDEX
        if not supervised_T.any():
            return None
        ids = torch.tensor([sample.input_ids], device=self.device)
        embeddings_1TD = self._embed(ids, sample.pixel_values)
        output = self._llava.model.language_model(inputs_embeds=embeddings_1TD, use_cache=False)
        logits_SV = self._llava.lm_head(output.last_hidden_state[0, :-1][supervised_T])[:, : self._words]
        return float(functional.cross_entropy(logits_SV.float(), targets_T[supervised_T]))

    def _embed(self, ids: torch.Tensor, pixels: torch.Tensor | None) -> torch.Tensor:
        if pixels is None:
            embedded: torch.Tensor = self._llava.get_input_embeddings()(ids)
            return embedded
        return self._model.embed(
            ids, pixels[None].to(self.device), torch.zeros(1, dtype=torch.long, device=self.device)
        )


def load_loss(folder: Path, vision_tower: Path | None, image_token_id: int) -> SampleLoss:
    """Load a checkpoint's weights in fp32.

    Args:
        folder: a Hugging Face checkpoint, or one of the original's format.
        vision_tower: the tower of the original's; None takes what its ``config.json`` names.

    Raises:
        TrainError: the folder is neither, or its weights cannot be read.
    """
    light_transformers()
    from transformers import LlavaForConditionalGeneration
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if not original.is_original(folder):
        values = read_json(folder / "config.json", CHECKPOINT_AGAIN)
        if values.get("model_type") != "llava":
            raise TrainError(f"{folder}: not a LLaVA checkpoint", "give --model a finished one, or leave --loss out")
        llava = original.load_pretrained(LlavaForConditionalGeneration, folder, torch.float32)
        return SampleLoss(llava, original.trained_words(values), image_token_id)
    read = original.read_original(folder, vision_tower)
    state = {name: value.float() for name, value in read.state.items()}
    llava = LlavaForConditionalGeneration.from_pretrained(
        None, config=read.config, state_dict=state, dtype=torch.float32
    )
    return SampleLoss(llava, read.config.text_config.vocab_size, image_token_id)
