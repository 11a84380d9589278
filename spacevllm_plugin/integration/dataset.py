"""Hook on `data.loader`: keeps the targets beside the tokens, and sees to rows that cannot be used."""

import copy
import json
from collections import defaultdict
from contextvars import ContextVar
from functools import wraps
from types import ModuleType
from typing import Any

from ..backbones import registry
from ..data.facts import Facts
from ..data.media import in_order
from ..data.rules import MismatchError, check_fit
from ..data.schema import AnnotationRow, RowError
from ..data.storage import is_remote
from ..data.targets import check_span, query_targets
from ..data.video import MediaError
from ..modeling.configuration import STAQ_TOKEN
from .bad_rows import BadRowsError, Examination, repeated_ids
from .cache import converting, grouping, tokenising, tokenizer_state, was_tokenised
from .columns import ALIGNED, Typed, tokenised
from .converter import COLUMN, FORMATTING
from .lines import load_lines
from .options import RunOptions
from .sentences import IGNORED, SHARED, check_sentences, group_rows, shared_part
from .survey import survey_videos
from .template import is_ours


NO_CUTOFF = 2**30
PROMPT_OPTIONS = ("frame_sampling", "instruction_first", "frame_tokens")

_examination: ContextVar[Examination | None] = ContextVar("examination of a run's data sets", default=None)
# LLaMA-Factory's `load_dataset` is not told what it loads.
_formatting: ContextVar[str | None] = ContextVar("formatting of the data set that is being loaded", default=None)


class GroundingEncoding:
    """Mixed into LLaMA-Factory's dataset processors: one row in, one row out, with a target or an error."""

    def preprocess_dataset(self, examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Tokenise.

        Adds the columns `box_targets` (four numbers for each query), `annotation`, `error` and `option`, which decides
        about a row with an error, and those of `sentences.SHARED`.
        """
        outputs = defaultdict(list)
        for i in range(len(examples["_prompt"])):
            example = {name: values[i] for name, values in examples.items()}
            payload = json.loads(example.get(COLUMN) or "{}")
            encoded = {"input_ids": [], "labels": [], "box_targets": []}
            encoded.update(error=payload.get("error"), option="bad_media")
            if encoded["error"] is None:
                where = payload.get("where", f"row {i} of a batch without ids")
                try:
                    encoded.update(self._encode(example, payload.get("row")))
                except MismatchError as err:
                    encoded.update(error=f"{where}: {err.kind}: {err}", option="on_mismatch")
                except (MediaError, RowError, BadRowsError) as err:
                    encoded["error"] = f"{where}: {err}"

            outputs["input_ids"].append(encoded["input_ids"])
            outputs["attention_mask"].append([1] * len(encoded["input_ids"]))
            outputs["labels"].append(encoded["labels"])
            outputs["images"].append(example["_images"])
            outputs["videos"].append(example["_videos"])
            outputs["audios"].append(example["_audios"])
            outputs["box_targets"].append(encoded["box_targets"])
            outputs["annotation"].append(json.dumps(payload["row"]) if "row" in payload else None)
            outputs["error"].append(encoded["error"])
            outputs["option"].append(encoded["option"])
            for name in SHARED:
                outputs[name].append(encoded.get(name))

        return outputs

    def _encode(self, example: dict[str, Any], row: dict[str, Any] | None) -> dict[str, Any]:
        if len(example["_prompt"]) % 2 != 1 or len(example["_response"]) != 1:
            raise BadRowsError("the messages are not user and assistant in turn")

        images, videos = example["_images"] or [], example["_videos"] or []
        plugin = self.template.mm_plugin
        prompter = plugin.prompter(self.processor)
        image_plans, video_plans = prompter.plan(images, videos)
        cutoff_len = self.data_args.cutoff_len
        limited, self.data_args = self.data_args, replace_cutoff(self.data_args, NO_CUTOFF)
        try:
            input_ids, labels = self._encode_data_example(
                prompt=example["_prompt"],
                response=example["_response"],
                system=example["_system"],
                tools=example["_tools"],
                images=image_plans,
                videos=video_plans,
                audios=[],
            )
        finally:
            self.data_args = limited

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

        if annotation is not None and RunOptions.on(self.processor).training.on_mismatch != "trust":
            check_fit(annotation, _facts(annotation, image_plans, video_plans))

        image_targets, tubes = query_targets(annotation, len(images), video_plans)
        encoded = {"input_ids": input_ids, "labels": labels}
        encoded["box_targets"] = self._in_order(example, image_targets, tubes)
        if RunOptions.on(self.processor).training.sentences_per_video > 1:
            encoded |= shared_part(prompter, encoded, image_plans, video_plans, [*images, *videos])

        return encoded

    @staticmethod
    def _in_order(example: dict[str, Any], images: list, tubes: list) -> list[float]:
        """All queries' targets in order of appearance, flat."""
        media = in_order(example["_prompt"] + example["_response"], ([box] for box in images), tubes)
        return [value for boxes in media for box in boxes for value in box]


def _facts(row: AnnotationRow, images: list, videos: list) -> Facts | None:
    """What the plans say of the medium that a row's `media` and `target` belong to."""
    if videos and row.task != "rec":
        plan = videos[0]
        moments = row.target.span_frames or () if row.target else ()
        return Facts.of_video(plan.ref, plan.width, plan.height, plan.timeline, moments)

    return Facts(images[0].width, images[0].height) if images else None


def replace_cutoff(data_args: Any, cutoff_len: int) -> Any:
    """A copy of LLaMA-Factory's data arguments with another `cutoff_len`."""
    data_args = copy.copy(data_args)
    data_args.cutoff_len = cutoff_len
    return data_args


def token_settings(template: Any, tokenizer: Any, processor: Any) -> dict[str, Any]:
    """Everything that the tokens of a row with media depend on, the media apart."""
    options, spec = RunOptions.on(processor), registry.get(template.mm_plugin.backbone)
    thinking = {} if spec.thought_words is None else {"enable_thinking": template.enable_thinking}
    return {
        "template": spec.template,
        **thinking,
        STAQ_TOKEN: tokenizer.convert_tokens_to_ids(STAQ_TOKEN),
        **{name: getattr(options.grounding, name) for name in PROMPT_OPTIONS},
        **vars(options.preprocessing),
    }


def table_settings(template: Any, tokenizer: Any, processor: Any) -> dict[str, Any]:
    """Everything that a table of tokenised rows depends on, the rows and their media apart."""
    sentences = RunOptions.on(processor).training.sentences_per_video
    return {**token_settings(template, tokenizer, processor), "sentences_per_video": sentences}


def check_settings(dataset: Any, settings: dict[str, Any], path: str) -> None:
    """Compare what rows were tokenised with, as `tokenized_path` kept it, with what the run would do now.

    Raises:
        ValueError: They differ: the tokens would not fit the frames.
    """
    recorded = {
        "sentences_per_video": 1,
        **json.loads(dataset.info.description or "{}"),
    }  # as before there was the option
    changes = [
        f"{name} {recorded.get(name)}, now {value}" for name, value in settings.items() if recorded.get(name) != value
    ]
    if changes:
        raise ValueError(
            f"The rows at `tokenized_path: {path}` were tokenised with other settings ({'; '.join(changes)}): go back to "
            "those, or choose another folder."
        )


def grounds_rows(processor: Any, training_args: Any) -> bool:
    """Whether the evaluation rows will be grounded, and so told apart by their ids."""
    return RunOptions.on(processor).training.grounding_metrics or training_args.predict_with_generate


def check_ids(dataset: Any, path: str) -> None:
    """Raise `ValueError` if an evaluation set at `tokenized_path` would end training at its first evaluation."""
    errors = repeated_ids(dataset)
    if errors:
        raise ValueError(f"The evaluation rows at `tokenized_path: {path}`: {next(iter(errors.values()))}.")


def install(module: ModuleType) -> None:
    """Choose our processors when the template is ours."""

    class GroundingSupervisedProcessor(GroundingEncoding, module.SupervisedDatasetProcessor):
        pass

    class GroundingUnsupervisedProcessor(GroundingEncoding, module.UnsupervisedDatasetProcessor):
        pass

    load_single_dataset = module._load_single_dataset
    load_dataset = module.load_dataset
    align_dataset = module.align_dataset
    split_dataset = module.split_dataset
    get_dataset_processor = module._get_dataset_processor
    get_preprocessed_dataset = module._get_preprocessed_dataset
    get_dataset = module.get_dataset

    @wraps(load_single_dataset)
    def _load_single_dataset(dataset_attr, model_args, data_args, training_args):
        if dataset_attr.formatting == FORMATTING and is_remote(dataset_attr.dataset_name):
            # LLaMA-Factory looks for files on the disk, and takes a hub's name as it is.
            dataset_attr = copy.copy(dataset_attr)
            dataset_attr.load_from = "hf_hub"

        token = _formatting.set(dataset_attr.formatting)
        try:
            return load_single_dataset(dataset_attr, model_args, data_args, training_args)
        finally:
            _formatting.reset(token)

    @wraps(load_dataset)
    def _load_dataset(path, data_files=None, **kwargs):
        if is_remote(path):
            path, data_files = module.FILEEXT2TYPE.get(path.rpartition(".")[2], path), [path]

        if _formatting.get() == FORMATTING and data_files and all(file.endswith(".jsonl") for file in data_files):
            return load_lines(data_files, kwargs["split"], kwargs["cache_dir"], kwargs["num_proc"])

        return load_dataset(path, data_files=data_files, **kwargs)

    @wraps(align_dataset)
    def _align_dataset(dataset, dataset_attr, data_args, training_args):
        if dataset_attr.formatting == FORMATTING:
            caching = {} if data_args.streaming else converting(dataset, dataset_attr, data_args, training_args)
            dataset = Typed(dataset, ALIGNED, caching)

        return align_dataset(dataset, dataset_attr, data_args, training_args)

    @wraps(split_dataset)
    def _split_dataset(*args, **kwargs):
        train, evaluation = split_dataset(*args, **kwargs)
        _examination.set(Examination(len(train) + len(evaluation)))
        return train, evaluation

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
        rest = (data_args, training_args, stage, template, tokenizer, processor, is_eval)
        if dataset is None or not is_ours(template):
            return get_preprocessed_dataset(dataset, *rest)

        options, settings = RunOptions.on(processor).training, token_settings(template, tokenizer, processor)
        parts = {
            "settings": settings,
            "tokenizer": tokenizer_state(tokenizer, processor),
            "generate": training_args.predict_with_generate and is_eval,
            "checked": options.on_mismatch != "trust",
            "grouped": options.sentences_per_video > 1,
        }
        caching = tokenising(dataset, data_args, training_args, parts)
        if not was_tokenised(dataset, caching):
            survey_videos(dataset, RunOptions.on(processor), data_args, training_args, module.logger)

        dataset = get_preprocessed_dataset(Typed(dataset, tokenised(dataset.features), caching), *rest)
        policies = {"bad_media": options.bad_media, "on_mismatch": options.on_mismatch}
        unique_ids = is_eval and grounds_rows(processor, training_args)
        examination = _examination.get() or Examination()
        dataset = examination.sort_out(dataset, policies, is_eval, unique_ids, module.logger)
        most = 1 if is_eval else options.sentences_per_video
        fingerprint = grouping(dataset, most, data_args.cutoff_len)
        dataset = group_rows(dataset, most, data_args, fingerprint, module.logger)
        dataset.info.description = json.dumps(table_settings(template, tokenizer, processor))
        return dataset

    @wraps(get_dataset)
    def _get_dataset(template, model_args, data_args, training_args, stage, tokenizer, processor=None):
        if is_ours(template) and training_args.do_train:
            check_sentences(template, model_args, data_args, processor)

        found = get_dataset(template, model_args, data_args, training_args, stage, tokenizer, processor)
        if is_ours(template) and data_args.tokenized_path is not None:
            settings = table_settings(template, tokenizer, processor)
            for name, datasets in found.items():
                for dataset in datasets.values() if isinstance(datasets, dict) else [datasets]:
                    check_settings(dataset, settings, data_args.tokenized_path)
                    if name == "eval_dataset" and grounds_rows(processor, training_args):
                        check_ids(dataset, data_args.tokenized_path)

        return found

    module._load_single_dataset = _load_single_dataset
    module.load_dataset = _load_dataset
    module.align_dataset = _align_dataset
    module.split_dataset = _split_dataset
    module._get_dataset_processor = _get_dataset_processor
    module._get_preprocessed_dataset = _get_preprocessed_dataset
    module.get_dataset = _get_dataset
