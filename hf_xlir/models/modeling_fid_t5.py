"""The Fusion-in-Decoder reader: each passage is encoded alone, the decoder attends to all."""

from dataclasses import dataclass

import torch
from transformers import EncoderDecoderCache, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from .configuration_fid_t5 import FiDT5Config
from .fid_attention import FirstTokenAttention, PassageAttention
from .fid_encoder import FiDT5Encoder, OwnBiasSelfAttention, pack_tokens, passage_mask
from .transformers_private import CACHE, EncodesForGeneration, can_return_tuple, cross_attentions, forget_renamings


# The FiD repository's names of the encoder's weights: it wraps the encoder, and each of its blocks.
RELEASED_KEY_MAPPING = {
    r"^encoder\.encoder\.block\.(\d+)\.module\.": r"encoder.block.\1.",
    r"^encoder\.encoder\.": "encoder.",
}


@dataclass
class FiDT5Output(Seq2SeqLMOutput):
    r"""
    Output of [`FiDT5ForConditionalGeneration`]. `length` is the length of the batch's longest passage.

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `labels` is given):
            Mean cross-entropy of the label tokens.
        logits (`torch.FloatTensor` of shape `(batch_size, target_length, vocab_size)`):
            Scores of each vocabulary token before the softmax.
        reader_scores (`torch.FloatTensor` of shape `(batch_size, num_passages)`, *optional*, returned when
            `output_reader_scores=True`):
            How much the first decoded token looks at each passage, see
            [`FiDT5ForConditionalGeneration.reader_scores`]. At least float32, without gradient.
        encoder_last_hidden_state (`torch.FloatTensor` of shape `(batch_size, num_passages * length, d_model)`):
            States of the passages' tokens, passage after passage, with zeros for absent passages. The decoder does not
            see padding: it has keys and values of real tokens only, except with `output_attentions`.
        encoder_hidden_states (`tuple(torch.FloatTensor)`, *optional*):
            The same for the embeddings and each layer.
        encoder_attentions (`tuple(torch.FloatTensor)`, *optional*):
            Of shape `(num_present_passages, num_heads, length, length)`: absent passages are not encoded.
        cache (before transformers 5.24: `past_key_values`), decoder_hidden_states, decoder_attentions,
        cross_attentions:
            As in [`~transformers.modeling_outputs.Seq2SeqLMOutput`]. Cross-attentions cover
            `num_passages * length` tokens.
    """

    reader_scores: torch.FloatTensor | None = None


class FiDT5ForConditionalGeneration(EncodesForGeneration, T5ForConditionalGeneration):
    r"""
    Fusion-in-Decoder (https://huggingface.co/papers/2007.01282): a T5, mT5 or umT5 whose encoder reads each passage
    with the question, independently of the other passages, and whose decoder attends to all passages at once. Time
    and memory grow linearly with the number of tokens in the passages; padding is hardly computed and never attended
    to. With one passage the model equals its backbone exactly.

    `from_pretrained` loads readers saved by this class, plain T5, mT5 and umT5 checkpoints, and the readers that the
    FiD repository released. `save_pretrained` always writes T5's names.

    Args:
        config ([`FiDT5Config`]):
            Configuration.

    Example:
    ```python
    >>> import torch
    >>> from hf_xlir import FiDT5Config, FiDT5ForConditionalGeneration

    >>> config = FiDT5Config(vocab_size=100, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4)
    >>> model = FiDT5ForConditionalGeneration(config).eval()
    >>> input_ids = torch.randint(3, 100, (1, 3, 8))  # one question, three passages
    >>> out = model.generate(input_ids, max_new_tokens=4, return_dict_in_generate=True, output_reader_scores=True)
    >>> out.sequences.shape[0], out.reader_scores.shape
    (1, torch.Size([1, 3]))

    ```
    """

    config_class = FiDT5Config
    # `forward` takes the mean over label tokens; the Trainer must not divide once more under gradient accumulation
    accepts_loss_kwargs = False

    def __init__(self, config):
        if not isinstance(config, FiDT5Config) and config.model_type != FiDT5Config.model_type:
            raise ValueError(
                f"`{type(self).__name__}` needs a `FiDT5Config`, got a `{type(config).__name__}`. Convert it with "
                "`FiDT5Config.from_backbone(config)`, or load a folder with `from_pretrained`."
            )
        super().__init__(config)
        self.encoder = FiDT5Encoder(self.encoder.config)
        if config.backbone_model_type == "umt5":
            for stack in (self.encoder, self.decoder):
                for index, block in enumerate(stack.block[1:], start=1):
                    block.layer[0] = OwnBiasSelfAttention(
                        stack.config, has_relative_attention_bias=True, layer_idx=index
                    )
        for attention in cross_attentions(self.decoder):
            attention.__class__ = PassageAttention  # the same weights
        self.post_init()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *model_args,
        config=None,
        key_mapping=None,
        output_loading_info=False,
        **kwargs,
    ):
        r"""
        Load a reader, a plain T5, mT5 or umT5 checkpoint, or a reader that the FiD repository released.

        Takes the arguments of [`~transformers.PreTrainedModel.from_pretrained`].

        Raises:
            ValueError: If the folder holds a model of another family, or weights are missing: no weight of a reader
                may stay random.
        """
        if getattr(config, "model_type", FiDT5Config.model_type) != FiDT5Config.model_type:
            config = FiDT5Config.from_backbone(config)
        model, info = super().from_pretrained(
            pretrained_model_name_or_path,
            *model_args,
            config=config,
            key_mapping={**RELEASED_KEY_MAPPING, **(key_mapping or {})},
            output_loading_info=True,
            **kwargs,
        )
        if info["missing_keys"]:
            missing = sorted(info["missing_keys"])
            raise ValueError(
                f"`{pretrained_model_name_or_path}` lacks {len(missing)} weights, such as {missing[:3]}, of the "
                f"reader in its configuration (`{model.config.backbone_model_type}`, {model.config.num_layers} + "
                f"{model.config.num_decoder_layers} layers): give a complete encoder-decoder checkpoint."
            )
        forget_renamings(model, RELEASED_KEY_MAPPING)
        return (model, info) if output_loading_info else model

    @can_return_tuple
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        decoder_input_ids=None,
        decoder_attention_mask=None,
        encoder_outputs=None,
        cache=None,
        inputs_embeds=None,
        decoder_inputs_embeds=None,
        labels=None,
        use_cache=None,
        output_reader_scores=False,
        past_key_values=None,
        **kwargs,
    ):
        r"""
        Read each question's passages and score the answer's tokens.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, num_passages, length)` or `(batch_size, length)`):
                Token ids of question and passage. Two axes mean one passage per question.
            attention_mask (`torch.Tensor` of the same shape, *optional*):
                Not 0 for real tokens. By default every token but the padding token is real. A passage without a real
                token is absent: it is neither encoded nor attended to. With `encoder_outputs` the shape may be
                `(batch_size, num_passages * length)`.
            decoder_input_ids (`torch.LongTensor` of shape `(batch_size, target_length)`, *optional*):
                By default `labels` shifted to the right.
            decoder_attention_mask (`torch.Tensor` of shape `(batch_size, target_length)`, *optional*):
                0 for padding in `decoder_input_ids`, in addition to the causal mask.
            encoder_outputs (`BaseModelOutput` or `tuple`, *optional*):
                States of shape `(batch_size, num_passages * length, d_model)`. Nothing is encoded then.
            cache (`EncoderDecoderCache`, *optional*):
                Keys and values of the tokens decoded so far, and of the passages if they exist. The first tokens are
                decoded without keys and values of passages ([`PassageAttention`]), so later steps need the passages
                or their states, too. transformers before 5.24 calls it `past_key_values`; both names work.
            inputs_embeds (`torch.FloatTensor` of shape `input_ids.shape + (d_model,)`, *optional*):
                Embeddings instead of ids.
            decoder_inputs_embeds (`torch.FloatTensor` of shape `(batch_size, target_length, d_model)`, *optional*):
                Embeddings instead of `decoder_input_ids`.
            labels (`torch.LongTensor` of shape `(batch_size, target_length)`, *optional*):
                Answer token ids, -100 where they do not count.
            use_cache (`bool`, *optional*):
                Whether to return the cache. Defaults to the configuration's.
            output_reader_scores (`bool`, *optional*, defaults to `False`):
                Whether to return `reader_scores`. The attention implementation stays the same.
            **kwargs:
                As in [`~transformers.T5ForConditionalGeneration`].

        Returns:
            [`FiDT5Output`]

        Raises:
            ValueError: If shapes do not match, all passages of a question are absent, or reader scores are requested
                after the first decoding step.
        """
        mask = passage_mask(attention_mask, input_ids, inputs_embeds, self.config.pad_token_id)
        flat_mask = None if mask is None else mask.flatten(1)  # (batch, num_passages * length)
        encoded = None
        if encoder_outputs is None:
            encoded = self.encoder(input_ids=input_ids, attention_mask=mask, inputs_embeds=inputs_embeds, **kwargs)
            encoder_outputs = encoded
        packs = encoded is not None and encoded.attentions is None
        cache = past_key_values if cache is None else cache
        num_cached = _num_cached_tokens(cache)
        if num_cached is not None and mask is not None:  # the layout of the first step
            packs = num_cached != flat_mask.shape[1]
        if packs:
            states, flat_mask = pack_tokens(encoder_outputs[0], mask)
            encoder_outputs = BaseModelOutput(last_hidden_state=states)
        inputs = {
            "attention_mask": flat_mask,
            "decoder_input_ids": decoder_input_ids,
            "decoder_attention_mask": decoder_attention_mask,
            "encoder_outputs": encoder_outputs,
            CACHE: cache,
            "decoder_inputs_embeds": decoder_inputs_embeds,
            "labels": labels,
            "use_cache": use_cache,
            **kwargs,
            "return_dict": True,
        }
        scores = None
        if output_reader_scores:
            if mask is None:
                mask = torch.ones_like(encoder_outputs[0][:, None, :, 0], dtype=torch.long)  # one passage
            with FirstTokenAttention(self.decoder, mask) as attention:
                outputs = super().forward(**inputs)
            scores = attention.passage_scores()
        else:
            outputs = super().forward(**inputs)
        of_encoder = {} if encoded is None else {f"encoder_{name}": value for name, value in encoded.items()}
        return FiDT5Output(**{**outputs, **of_encoder, "reader_scores": scores})  # the encoder's states unpacked

    @torch.no_grad()
    def generate(
        self,
        inputs=None,
        generation_config=None,
        *,
        input_ids=None,
        attention_mask=None,
        output_reader_scores=False,
        **kwargs,
    ):
        r"""
        Write the answers, with any decoding method of transformers (greedy, beams, sampling, static cache ...).

        Args:
            inputs (`torch.LongTensor`, *optional*):
                The same as `input_ids`.
            generation_config (`GenerationConfig`, *optional*):
                As in [`~transformers.GenerationMixin.generate`].
            input_ids (`torch.LongTensor` of shape `(batch_size, num_passages, length)` or `(batch_size, length)`):
                Token ids.
            attention_mask (`torch.Tensor` of the same shape, *optional*):
                As in [`FiDT5ForConditionalGeneration.forward`].
            output_reader_scores (`bool`, *optional*, defaults to `False`):
                Whether to return `reader_scores` of shape `(batch_size, num_passages)`, for any number of beams.
                Needs `return_dict_in_generate=True`. They need no further pass over the model.
            **kwargs:
                As in [`~transformers.GenerationMixin.generate`].

        Returns:
            `torch.LongTensor` of shape `(batch_size * num_return_sequences, target_length)`, or with
            `return_dict_in_generate=True` a `ModelOutput` of transformers, which also has `reader_scores`.

        Raises:
            ValueError: If reader scores are requested without `return_dict_in_generate`, or all passages of a question
                are absent.
        """
        input_ids = inputs if input_ids is None else input_ids
        mask = passage_mask(attention_mask, input_ids, kwargs.get("inputs_embeds"), self.config.pad_token_id)
        if mask is not None:
            kwargs["attention_mask"] = mask.flatten(1)  # (batch, num_passages * length)
        if not output_reader_scores:
            return super().generate(input_ids, generation_config, **kwargs)

        defaults = generation_config or self.generation_config
        if not kwargs.get("return_dict_in_generate", defaults.return_dict_in_generate):
            raise ValueError("`output_reader_scores=True` needs `return_dict_in_generate=True`, got `False`.")
        if mask is None:
            raise ValueError("`output_reader_scores=True` needs `input_ids` or `attention_mask`, got neither.")
        with FirstTokenAttention(self.decoder, mask) as attention:
            outputs = super().generate(input_ids, generation_config, **kwargs)
        outputs["reader_scores"] = attention.passage_scores()
        return outputs

    def encode_for_generation(self, inputs, model_kwargs, encode):
        """Called by `generate`: encodes where nothing is encoded yet, and packs what was encoded."""
        if model_kwargs.get("encoder_outputs") is not None:
            return encode(model_kwargs)
        mask = model_kwargs.get("attention_mask")
        if not inputs.is_floating_point() and mask.shape[1] != inputs[0].numel():
            # An assistant model is given its passages, but the packed mask of the model that it assists
            mask = passage_mask(input_ids=inputs, pad_token_id=self.config.pad_token_id).flatten(1)
            model_kwargs["attention_mask"] = mask
        model_kwargs = encode(model_kwargs)
        encoded = model_kwargs["encoder_outputs"]
        if encoded.attentions is None:
            encoded.last_hidden_state, model_kwargs["attention_mask"] = pack_tokens(
                encoded.last_hidden_state, mask[:, None]
            )
        return model_kwargs

    @torch.no_grad()
    def reader_scores(self, input_ids=None, attention_mask=None, encoder_outputs=None):
        r"""
        How much the reader attends to each passage before it writes the answer: the cross-attention logits of the
        first decoded token, before the softmax, averaged over heads, layers and the passage's real tokens (section 3.2
        of https://huggingface.co/papers/2012.04584).

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, num_passages, length)`):
                Token ids.
            attention_mask (`torch.Tensor` of the same shape, *optional*):
                As in [`FiDT5ForConditionalGeneration.forward`].
            encoder_outputs (`BaseModelOutput`, *optional*):
                The encoder's output, if it exists already. `attention_mask` then separates the passages.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, num_passages)`, higher is better. An absent passage gets `-inf`,
            which a softmax turns into 0.
        """
        first = encoder_outputs[0] if input_ids is None else input_ids
        start = torch.full((len(first), 1), self.config.decoder_start_token_id, device=first.device)
        return self(
            input_ids,
            attention_mask,
            decoder_input_ids=start,
            encoder_outputs=encoder_outputs,
            use_cache=False,
            output_reader_scores=True,
            return_dict=True,
        ).reader_scores


def _num_cached_tokens(cache):
    """How many tokens of passages a cache holds, or `None` if it has no keys and values of passages."""
    if isinstance(cache, EncoderDecoderCache):
        for layer, holds_some in cache.is_updated.items():  # layers with adapters may differ
            if holds_some:
                return cache.cross_attention_cache.layers[layer].keys.shape[-2]
    return None


__all__ = ["FiDT5ForConditionalGeneration", "FiDT5Output"]
