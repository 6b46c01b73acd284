"""A BERT of a few thousand weights in a folder, as a user might name one; made anew for each test session."""

from pathlib import Path

WORDS = [
    "a",
    "the",
    "great",
    "bad",
    "light",
    "photo",
    "my",
    "experience",
    "is",
    "expert",
    "beginner",
    ".",
    "!",
    "##s",
]


def make_tiny_bert(folder: Path) -> str:
    """Write model and tokenizer; returns the folder's name for `TextConfig.name`."""
    import torch

    from aescli.torch_compat import prepare_torchvision

    prepare_torchvision()
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = BertWordPieceTokenizer({word: i for i, word in enumerate(vocabulary)})
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)
