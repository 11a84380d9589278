"""Hook on `data.loader`: keeps the targets beside the tokens, and sees to rows that cannot be used."""

import copy
import json
from collections import defaultdict
from functools import wraps
from types import ModuleType
from typing import Any

from ..data.plan import Preprocessing
from ..data.schema import MEDIA_TAG, AnnotationRow, RowError
from ..data.targets import check_span, query_targets
from ..data.video import MediaError
from ..modeling.configuration import STAQ_TOKEN
from .columns import ALIGNED, Typed, tokenised
from .converter import COLUMN
from .template import is_ours


NO_CUTOFF = 2**30
IGNORED = -100  # label of a token that teaches nothing
PROMPT_OPTIONS = ("frame_sampling", "instruction_first", "frame_tokens")
NAMED_ROWS = 50


class BadRowsError(ValueError):
    """Rows that cannot be used; the message names them."""


class GroundingEncoding:
    """Mixed into LLaMA-Factory's dataset processors: one row in, one row out, with a target or an error."""

    def preprocess_dataset(self, examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Tokenise; adds the columns `box_targets` (four numbers for each query), `annotation` and `error`."""
        outputs = defaultdict(list)
        for i in range(len(examples["_prompt"])):
            example = {name: values[i] for name, values in examples.items()}
            payload = json.loads(example.get(COLUMN) or "{}")
            encoded = {"input_ids": [], "labels": [], "box_targets": [], "error": payload.get("error")}
            if encoded["error"] is None:
                row_id = payload.get("row", {}).get("id", f"row {i} of a batch without ids")
                try:
                    encoded.update(self._encode(example, payload.get("row")))
                except (MediaError, RowError, BadRowsError) as err:
                    encoded["error"] = f"id {row_id}: {err}"

            outputs["input_ids"].append(encoded["input_ids"])
            outputs["attention_mask"].append([1] * len(encoded["input_ids"]))
            outputs["labels"].append(encoded["labels"])
            outputs["images"].append(example["_images"])
            outputs["videos"].append(example["_videos"])
            outputs["audios"].append(example["_audios"])
            outputs["box_targets"].append(encoded["box_targets"])
            outputs["annotation"].append(json.dumps(payload["row"]) if "row" in payload else None)
            outputs["error"].append(encoded["error"])

        return outputs

    def _encode(self, example: dict[str, Any], row: dict[str, Any] | None) -> dict[str, Any]:
        if len(example["_prompt"]) % 2 != 1 or len(example["_response"]) != 1:
            raise BadRowsError("the messages are not user and assistant in turn")

        images, videos = example["_images"] or [], example["_videos"] or []
        plugin = self.template.mm_plugin
        cutoff_len = self.data_args.cutoff_len
        limited, self.data_args = self.data_args, replace_cutoff(self.data_args, NO_CUTOFF)
        try:
            input_ids, labels = self._encode_data_example(
                prompt=example["_prompt"],
                response=example["_response"],
                system=example["_system"],
                tools=example["_tools"],
                images=images,
                videos=videos,
                audios=[],
            )
        finally:
            self.data_args = limited

        prompter = plugin.prompter(self.processor)
        image_plans, video_plans = prompter.plan(images, videos)
        prompter.check_tokens(input_ids, image_plans, video_plans)
        if len(input_ids) > cutoff_len:
            if images or videos:  # a cut might go through a frame
                raise BadRowsError(f"needs `cutoff_len` of at least {len(input_ids)}, but it is {cutoff_len}")

            input_ids, labels = input_ids[:cutoff_len], labels[:cutoff_len]

        # With `train_on_prompt` the model would learn to write what only stands for frames and queries.
        silent = {*self.tokenizer.convert_tokens_to_ids([STAQ_TOKEN, plugin.image_token, plugin.video_token])}
        labels = [IGNORED if label in silent else label for label in labels]
        annotation = AnnotationRow.model_validate(row) if row is not None else None
        if video_plans and annotation is not None:
            check_span(annotation, video_plans[0].timeline.num_frames)

        image_targets, tubes = query_targets(annotation, len(images), video_plans)
        box_targets = self._in_order(example, image_targets, tubes)
        return {"input_ids": input_ids, "labels": labels, "box_targets": box_targets}

    @staticmethod
    def _in_order(example: dict[str, Any], images: list, tubes: list) -> list[float]:
        """All queries' targets in order of appearance, flat."""
        text = "".join(message["content"] for message in example["_prompt"] + example["_response"])
        images, tubes = iter(images), iter(tubes)
        boxes = []
        for tag in MEDIA_TAG.findall(text):
            boxes += [next(images)] if tag == "<image>" else next(tubes)

        return [value for box in boxes for value in box]


def replace_cutoff(data_args: Any, cutoff_len: int) -> Any:
    """A copy of LLaMA-Factory's data arguments with another `cutoff_len`."""
    data_args = copy.copy(data_args)
    data_args.cutoff_len = cutoff_len
    return data_args


def drop_bad_rows(dataset: Any, policy: str, logger: Any) -> Any:
    """Stop at, or leave out, the rows that carry an error.

    Raises:
        BadRowsError: With `policy="stop"`, naming the bad rows.
    """
    errors = [error for error in dataset["error"] if error is not None]
    if errors:
        named = "\n".join(f"  {error}" for error in errors[:NAMED_ROWS])
        more = f"\n  … and {len(errors) - NAMED_ROWS} more" if len(errors) > NAMED_ROWS else ""
        summary = f"{len(errors)} of {len(dataset)} rows cannot be used:\n{named}{more}"
        if policy == "stop":
            raise BadRowsError(f"{summary}\nMend or remove them, or set `bad_media: skip` to leave them out.")

        logger.warning_rank0(f"{summary}\nThey are left out (`bad_media: skip`).")
        dataset = dataset.select([i for i, error in enumerate(dataset["error"]) if error is None])

    return dataset.remove_columns("error")


def token_settings(template: Any, tokenizer: Any, processor: Any) -> dict[str, Any]:
    """Everything that the tokens of a row with media depend on, the media apart."""
    return {
        "template": template.mm_plugin.template,
        STAQ_TOKEN: tokenizer.convert_tokens_to_ids(STAQ_TOKEN),
        **{name: getattr(processor.spacevllm_grounding, name) for name in PROMPT_OPTIONS},
        **vars(Preprocessing.of(processor)),
    }


def check_settings(dataset: Any, settings: dict[str, Any], path: str) -> None:
    """Compare what rows were tokenised with, as `tokenized_path` kept it, with what the run would do now.

    Raises:
        ValueError: They differ: the tokens would not fit the frames.
    """
    recorded = json.loads(dataset.info.description or "{}")
    changes = [
        f"{name} {recorded.get(name)}, now {value}" for name, value in settings.items() if recorded.get(name) != value
    ]
    if changes:
        raise ValueError(
            f"The rows at `tokenized_path: {path}` were tokenised with other settings ({'; '.join(changes)}): go back to "
            "those, or choose another folder."
        )


def install(module: ModuleType) -> None:
    """Choose our processors when the template is ours."""

    class GroundingSupervisedProcessor(GroundingEncoding, module.SupervisedDatasetProcessor):
        pass

    class GroundingUnsupervisedProcessor(GroundingEncoding, module.UnsupervisedDatasetProcessor):
        pass

    align_dataset = module.align_dataset
    get_dataset_processor = module._get_dataset_processor
    get_preprocessed_dataset = module._get_preprocessed_dataset
    get_dataset = module.get_dataset

    @wraps(align_dataset)
    def _align_dataset(dataset, dataset_attr, data_args, training_args):
        if dataset_attr.formatting == "spacevllm":
            dataset = Typed(dataset, ALIGNED)

        return align_dataset(dataset, dataset_attr, data_args, training_args)

    @wraps(get_dataset_processor)
    def _get_dataset_processor(data_args, stage, template, tokenizer, processor, do_generate=False):
        if not is_ours(template):
            return get_dataset_processor(data_args, stage, template, tokenizer, processor, do_generate)

        processor_class = GroundingUnsupervisedProcessor if do_generate else GroundingSupervisedProcessor
        return processor_class(template=template, tokenizer=tokenizer, processor=processor, data_args=data_args)

    @wraps(get_preprocessed_dataset)
    def _get_preprocessed_dataset(
        dataset, data_args, training_args, stage, template, tokenizer, processor=None, is_eval=False
    ):
        if dataset is not None and is_ours(template):
            # A row's verdict depends on its media, which the cache of the datasets library does not look at.
            data_args.overwrite_cache = True
            dataset = Typed(dataset, tokenised(dataset.features))

        dataset = get_preprocessed_dataset(
            dataset, data_args, training_args, stage, template, tokenizer, processor, is_eval
        )
        if dataset is None or not is_ours(template):
            return dataset

        dataset = drop_bad_rows(dataset, processor.spacevllm_bad_media, module.logger)
        dataset.info.description = json.dumps(token_settings(template, tokenizer, processor))
        return dataset

    @wraps(get_dataset)
    def _get_dataset(template, model_args, data_args, training_args, stage, tokenizer, processor=None):
        found = get_dataset(template, model_args, data_args, training_args, stage, tokenizer, processor)
        if is_ours(template) and data_args.tokenized_path is not None:
            settings = token_settings(template, tokenizer, processor)
            for datasets in found.values():
                for dataset in datasets.values() if isinstance(datasets, dict) else [datasets]:
                    check_settings(dataset, settings, data_args.tokenized_path)

        return found

    module.align_dataset = _align_dataset
    module._get_dataset_processor = _get_dataset_processor
    module._get_preprocessed_dataset = _get_preprocessed_dataset
    module.get_dataset = _get_dataset
