"""The random model that training benchmarks share, and how Hugging Face's Trainer and TRL's SFTTrainer train it."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from kinfold.corpora import Corpora
from kinfold.stages.training import Stores

__all__ = ["base_model", "documents_of", "hf_trainer", "padding", "sft_trainer"]


def base_model(folder: Path, corpora: Corpora, hidden: int, layers: int, vocabulary: int) -> Path:
    """A random Llama with a byte-level BPE trained on the corpora."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "<bos>", "<eos>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [text for domain in corpora.planned[:8] for text in domain.texts("train", limit=300)]
    tokenizer.train_from_iterator(texts, trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", mask_token="<mask>"
    )
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 32 * 32,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def documents_of(stores: Stores) -> list[list[int]]:
    return [store.piece(i).tolist() for store in stores.domains.values() for i in range(len(store))]


def peft_model(folder: Path, rank: int, dtype: torch.dtype) -> Any:
    """The base in the given precision; PEFT keeps its adapters in fp32, as Kinfold does."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return peft.get_peft_model(model, config)


def _arguments(kind: Any, folder: Path, rows: int, **extra: Any) -> Any:
    return kind(
        output_dir=str(folder / "hf"),
        per_device_train_batch_size=rows,
        num_train_epochs=1,
        learning_rate=2e-4,
        report_to=[],
        save_strategy="no",
        logging_steps=50,
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        **extra,
    )


def hf_trainer(
    folder: Path, documents: list[list[int]], rank: int, rows: int, *, grouped: bool, dtype: torch.dtype
) -> Callable[[], None]:
    import datasets

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    data = datasets.Dataset.from_dict({"input_ids": documents})
    names = {"train_sampling_strategy": "group_by_length"} if grouped else {}
    trainer = transformers.Trainer(
        model=peft_model(folder, rank, dtype),
        args=_arguments(transformers.TrainingArguments, folder, rows, bf16=dtype == torch.bfloat16, **names),
        train_dataset=data,
        data_collator=transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False),
        callbacks=None,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return lambda: trainer.train()


def sft_trainer(
    folder: Path, documents: list[list[int]], rank: int, rows: int, *, packed: bool, length: int, dtype: torch.dtype
) -> Any:
    import datasets
    import trl

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    data = datasets.Dataset.from_dict({"input_ids": documents})
    mean = sum(map(len, documents)) / len(documents)
    arguments = _arguments(
        trl.SFTConfig,
        folder,
        max(1, round(rows * mean / length)) if packed else rows,
        packing=packed,
        max_length=length,
        gradient_checkpointing=False,
        bf16=dtype == torch.bfloat16,
    )
    trainer = trl.SFTTrainer(
        model=peft_model(folder, rank, dtype), args=arguments, train_dataset=data, processing_class=tokenizer
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return lambda: trainer.train()


def padding(lengths: list[int], rows: int) -> dict[str, float]:
    """Share of padding in the peers' batches: of random documents (mean over orders), and of neighbours by length."""

    def share(order: list[int]) -> float:
        batches = [order[i : i + rows] for i in range(0, len(order), rows)]
        return 1 - sum(order) / sum(max(batch) * len(batch) for batch in batches)

    draw = random.Random(0)
    shuffled = [share(draw.sample(lengths, len(lengths))) for _ in range(200)]
    return {"random batches": statistics.mean(shuffled), "sorted by length": share(sorted(lengths))}
