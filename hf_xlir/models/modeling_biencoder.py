"""The dual encoder: one vector per text, scored by inner product."""

import copy
from numbers import Integral

import torch
from torch import nn

from .configuration_biencoder import BiEncoderConfig
from .modeling_retriever import RetrieverOutput, RetrieverPreTrainedModel, check_positions


ACTIVATIONS = {None: nn.Identity, "tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}


class BiEncoderHead(nn.Module):
    """Linear projection and LayerNorm, for the small embeddings of https://huggingface.co/papers/2012.04584."""

    def __init__(self, config):
        super().__init__()
        self.linear = nn.Linear(config.encoder_config.hidden_size, config.embedding_dim)
        self.activation = ACTIVATIONS[config.projection_activation]()
        self.LayerNorm = nn.LayerNorm(config.embedding_dim) if config.projection_norm else nn.Identity()

    def forward(self, vectors):
        """Map `(..., hidden_size)` to `(..., embedding_dim)`."""
        return self.LayerNorm(self.activation(self.linear(vectors)))


class BiEncoderModel(RetrieverPreTrainedModel):
    r"""
    Encoder, pooling, optional projection and optional L2 norm (DPR, https://huggingface.co/papers/2004.04906).

    With `share_encoders=False` queries and documents have separate towers; `text_type`, which the processor sets,
    selects the tower. `from_pretrained` takes a folder of this family or of a bare encoder. A single tower fills both.
    """

    config_class = BiEncoderConfig

    def __init__(self, config):
        super().__init__(config)
        self.encoder = self.build_encoder(config.encoder_config)
        self.head = BiEncoderHead(config) if config.embedding_dim else nn.Identity()
        if not config.share_encoders:
            self.document_encoder = self.build_encoder(copy.deepcopy(config.encoder_config))
            self.document_head = copy.deepcopy(self.head)
        check_positions(self)
        self.post_init()

    @classmethod
    def _load(cls, pretrained_model_name_or_path, *model_args, saved, config=None, **kwargs):
        has_one_tower = saved.get("share_encoders", True)
        share = kwargs.pop("share_encoders", has_one_tower) if config is None else config.share_encoders
        if share and not has_one_tower:
            raise ValueError(
                f"`{pretrained_model_name_or_path}` holds two towers, got share_encoders=True, which would drop the "
                "documents' tower. Leave `share_encoders` out, or start again from the bare encoder."
            )
        if config is not None:
            config = copy.deepcopy(config)
            config.share_encoders = has_one_tower
            kwargs["config"] = config
        model, info = super()._load(pretrained_model_name_or_path, *model_args, saved=saved, **kwargs)
        if has_one_tower and not share:  # the second tower is a copy
            model.separate_encoders()
        return model, info

    def separate_encoders(self):
        """Give documents their own tower, a copy of the shared one."""
        if not self.config.share_encoders:
            raise ValueError("The encoders are separate already.")
        self.config.share_encoders = False
        self.document_encoder = copy.deepcopy(self.encoder)
        self.document_head = copy.deepcopy(self.head)

    def resize_token_embeddings(self, *args, **kwargs):
        """Like the parent's, for both towers."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        if not self.config.share_encoders:
            self.document_encoder.resize_token_embeddings(*args, **kwargs)
        return embeddings

    def tower(self, text_type):
        """The encoder and head for `"query"` or `"document"`."""
        if text_type not in ("query", "document"):
            raise ValueError(f'`text_type` must be "query" or "document", got {text_type!r}.')
        if text_type == "query" or self.config.share_encoders:
            return self.encoder, self.head
        return self.document_encoder, self.document_head

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        text_type: str = "query",
        inputs_embeds: torch.FloatTensor | None = None,
        offset_mapping: torch.LongTensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> RetrieverOutput:
        r"""
        Embed a batch of texts from the processor's `process_queries` or `process_documents`.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                Token ids.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                1 for real tokens. Defaults to all.
            token_type_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Segment ids, for encoders that take them.
            text_type (`"query"` or `"document"`, *optional*, defaults to `"query"`):
                Selects the tower. No effect if queries and documents share one.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`, *optional*):
                Embeddings instead of ids.
            offset_mapping (`torch.LongTensor`, *optional*):
                Ignored. The processor can add it for [`~BiEncoderModel.word_vectors`].
            output_hidden_states, output_attentions (`bool`, *optional*):
                Whether to return the encoder's layers and attention weights.
            return_dict (`bool`, *optional*):
                `False` returns a tuple.

        Returns:
            [`RetrieverOutput`] with embeddings of shape `(batch_size, embedding_dim)`.
        """
        encoder, head = self.tower(text_type)
        if attention_mask is None:
            attention_mask = self.attend_to_all(input_ids, inputs_embeds)
        encoded = self.encode(
            encoder,
            input_ids,
            attention_mask,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states or self.config.pooling == "last4_mean",
            output_attentions=output_attentions,
        )
        embeddings = self._pool(encoded, attention_mask, head)  # (batch_size, embedding_dim)
        if self.config.normalize:
            embeddings = nn.functional.normalize(embeddings, dim=-1)
        output = RetrieverOutput(
            embeddings=embeddings,
            hidden_states=encoded.hidden_states if output_hidden_states else None,
            attentions=encoded.attentions,
        )
        return output.to_tuple() if return_dict is False else output

    def _pool(self, encoded, attention_mask, head):
        if self.config.pooling == "cls":
            return head(encoded.last_hidden_state[:, 0])
        if self.config.pooling == "mean":
            states = encoded.last_hidden_state
        else:
            states = torch.stack(encoded.hidden_states[-4:]).mean(dim=0)  # (batch_size, sequence_length, hidden_size)
        if self.config.project_tokens:
            states = head(states)
        weights = attention_mask[..., None].to(states.dtype)
        pooled = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        return pooled if self.config.project_tokens else head(pooled)

    def word_vectors(
        self,
        input_ids,
        attention_mask,
        offset_mapping,
        spans,
        token_type_ids=None,
        text_type="document",
        layers=(-1,),
        reduction="mean",
    ):
        r"""
        Contextual vectors of words: the sum or mean of the vectors of the pieces that a character span touches.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                Token ids.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`):
                1 for real tokens.
            offset_mapping (`torch.LongTensor` of shape `(batch_size, sequence_length, 2)`):
                Characters `[start, end)` of each piece, from the processor with `return_offsets_mapping=True`.
                Special tokens have an empty range and never count. A piece that is only a word boundary (such as
                XLM-R's `▁` before Chinese) has the range of the next character and counts with it.
            spans (`list[list[tuple[int, int]]]`):
                The `[start, end)` character spans of each text's words.
            token_type_ids (`torch.LongTensor`, *optional*):
                Segment ids, for encoders that take them.
            text_type (`"query"` or `"document"`, *optional*, defaults to `"document"`):
                Selects the tower.
            layers (`tuple[int]`, *optional*, defaults to `(-1,)`):
                Hidden states to average: 0 is the embedding layer, -1 the last.
            reduction (`"mean"` or `"sum"`, *optional*, defaults to `"mean"`):
                How the vectors of a word's pieces are combined.

        Returns:
            `list[torch.FloatTensor]`: One tensor per text, of shape `(number of spans, hidden_size)`.

        Raises:
            ValueError: If a span is not a range of characters, touches no piece, or ends after the last one, for
                example because the text was truncated.
        """
        if reduction not in ("mean", "sum"):
            raise ValueError(f'`reduction` must be "mean" or "sum", got {reduction!r}.')
        if offset_mapping.shape != (*input_ids.shape, 2):
            raise ValueError(
                f"`offset_mapping` must have shape {(*input_ids.shape, 2)}, got {tuple(offset_mapping.shape)}."
            )
        _check_spans(spans, len(input_ids))
        encoder, _ = self.tower(text_type)
        hidden_states = self.encode(
            encoder, input_ids, attention_mask, token_type_ids=token_type_ids, output_hidden_states=True
        ).hidden_states
        number = len(hidden_states)
        if not isinstance(layers, list | tuple | range) or not all(isinstance(each, Integral) for each in layers):
            raise ValueError(f"`layers` must be a tuple of integers such as (-1,), got {layers!r}.")
        if not layers or not all(-number <= layer < number for layer in layers):
            raise ValueError(f"`layers` must name some of the {number} hidden states, got {layers}.")
        states = torch.stack([hidden_states[layer] for layer in layers]).mean(dim=0)

        vectors = []
        for row, row_spans in enumerate(spans):
            starts, ends = offset_mapping[row].to(states.device).unbind(-1)  # (sequence_length,)
            bounds = torch.tensor(row_spans, dtype=torch.long, device=states.device).view(-1, 2)
            touched = (starts < bounds[:, 1:]) & (ends > bounds[:, :1])  # (spans, sequence_length)
            touched &= ends > starts  # not special tokens
            counts = touched.sum(dim=1, keepdim=True)
            missed = (counts[:, 0] == 0) | (bounds[:, 1] > ends.max())
            if missed.any():
                raise ValueError(
                    f"Spans {bounds[missed].tolist()} of text {row} touch no token or end after the last one. Give "
                    f"character positions up to {int(ends.max())}, where the text ends or was truncated."
                )
            summed = touched.to(states.dtype) @ states[row]  # (spans, hidden_size)
            vectors.append(summed / counts if reduction == "mean" else summed)
        return vectors


def _check_spans(spans, num_texts):
    if not isinstance(spans, list | tuple) or len(spans) != num_texts:
        got = len(spans) if isinstance(spans, list | tuple) else type(spans).__name__
        raise ValueError(f"`spans` needs a list for each of the {num_texts} texts, got {got}.")
    for row, of_text in enumerate(spans):
        if not isinstance(of_text, list | tuple):
            raise ValueError(f"`spans[{row}]` must be a list of (start, end) pairs, got {of_text!r}.")
        for span in of_text:
            is_pair = isinstance(span, list | tuple) and [isinstance(each, Integral) for each in span] == [True] * 2
            if not is_pair or not 0 <= span[0] < span[1]:
                raise ValueError(
                    f"`spans[{row}]` has {span!r}, expected a pair (start, end) of character positions with "
                    "0 <= start < end."
                )


__all__ = ["BiEncoderModel"]
