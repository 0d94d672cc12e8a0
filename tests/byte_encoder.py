"""A chat encoder whose tokenizer has one token a byte: what a row holds can be read off its ids."""

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from anneal_runtime.chat import CODEFUSE_TEMPLATE, ChatEncoder

EOS = "</s>"


def byte_encoder(special: Sequence[str] = ()) -> ChatEncoder:
    """Return an encoder by CodeFuse's template, with `special` tokens after the end token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([EOS, *special])
    return ChatEncoder(tokenizer, CODEFUSE_TEMPLATE, {"eos_token": EOS}, [tokenizer.token_to_id(EOS)])
