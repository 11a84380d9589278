"""Hook on `webui.locales`: what our part of the pages says; in languages that are not here, it says it in English."""

from types import ModuleType
from typing import Any

from .fields import OPTIONS


PANEL = "spacevllm_tab"

# Name of an element -> language -> what the element says, as in LLaMA-Factory's own table.
WORDS: dict[str, dict[str, dict[str, Any]]] = {
    PANEL: {
        "en": {"label": "SpaceVLLM configurations"},
        "zh": {"label": "SpaceVLLM 参数设置"},
    },
}

# Options in Chinese: label and help. Their English is that of the dataclasses.
CHINESE = {
    "video_maxlen": ("视频最大帧数", "每个视频最多采样的帧数。"),
    "video_fps": ("视频采样帧率", "每秒采样的帧数（`frame_sampling: fps` 时使用）。"),
    "staq_num_queries": ("查询数量", "视频帧的可学习查询数量（N_v）；另有一个查询用于单张图像。"),
    "space_decoder_attention": (
        "空间解码器注意力",
        "空间解码器的交叉注意力：`parameter_free` 与论文一致；`scaled` 将定位锚点的状态归一到同一尺度并学习温度，"
        "适用于日志中 `anchor_entropy` 长期接近 0 的情况；`projected` 使用可学习的投影。",
    ),
    "space_decoder_mlp_layers": ("边框头层数", "边框预测头的线性层数。"),
    "box_anchor": ("边框锚点", "边框的参考点：`attention` 为注意力加权的图像块中心，`none` 则没有（与论文一致）。"),
    "presence_head": (
        "存在性预测头",
        "让每个查询同时判断其所在帧是否出现所描述的目标，取自语言模型四分之三深度处的状态（参考 Bridge-STG，论文中没有）。",
    ),
    "frame_sampling": (
        "帧采样方式",
        "`uniform` 均匀取 `video_maxlen` 帧；`fps` 每秒取 `video_fps` 帧且不超过 `video_maxlen`。两者都覆盖整个视频。",
    ),
    "instruction_first": ("指令前置", "在视频之前重复一遍指令，使查询能够看到它。"),
    "frame_tokens": (
        "每帧视觉词元",
        "LLaVA 主干每帧的视觉词元：`onevision` 为 14x14 双线性插值、每个视频一个换行（transformers）；"
        "`llava_video` 为 13x13 平均池化、每行一个换行（原版 LLaVA-Video）。",
    ),
    "space_loss_weight": ("空间损失权重", "空间损失相对于语言损失的权重。"),
    "box_l1_weight": ("L1 权重", "空间损失中 L1 的权重。"),
    "box_giou_weight": ("GIoU 权重", "空间损失中 GIoU 的权重。"),
    "presence_loss_weight": ("存在性损失权重", "启用 `presence_head` 时，存在性损失相对于语言损失的权重。"),
    "space_decoder_lr": ("空间解码器学习率", "查询与空间解码器的学习率；留空则使用训练本身的学习率。"),
    "bad_media": (
        "不可用的数据行",
        "如何处理不可用的数据行（格式错误、媒体缺失或损坏、目标超出视频范围、超过 `cutoff_len`、评估数据 id 重复）："
        "`stop` 在第一步之前停止并全部列出；`skip` 跳过并计数。",
    ),
    "on_mismatch": (
        "与媒体不符的数据行",
        "如何处理与媒体文件不符的数据行（尺寸、旋转、帧率、帧数、区间秒数；规则同 `spacevllm-cli check`）："
        "`stop` 在第一步之前停止并全部列出；`skip` 跳过并计数；`trust` 采信数据行。",
    ),
    "frame_cache_dir": (
        "帧缓存目录",
        "本地磁盘目录，用于存放缩放后的采样帧，使每个视频在所有轮次、数据行和训练中只解码一次；留空则不缓存。",
    ),
    "frame_cache_gb": (
        "帧缓存上限（GB）",
        "`frame_cache_dir` 的最大容量。缓存满后保留本次训练用过的内容且不再写入，只有其他训练留下的内容会被清理。",
    ),
    "media_cache_dir": (
        "媒体缓存目录",
        "本地磁盘目录，用于存放从远程视频和图像（s3://、gs://、hf://、https://）读取的部分，"
        "使每一部分在所有轮次和训练中只下载一次；留空则不缓存。",
    ),
    "media_cache_gb": (
        "媒体缓存上限（GB）",
        "`media_cache_dir` 的最大容量。缓存满后保留本次训练用过的内容且不再写入，只有其他训练留下的内容会被清理。",
    ),
    "media_index": (
        "媒体索引文件",
        "记录视频信息（尺寸、时间戳、结束位置）的文件：训练前每个视频只打开一次，以后的训练不再打开；"
        "分词时创建和补充，其他步骤只读取。`spacevllm-cli check` 和 `convert` 也会写入。",
    ),
    "grounding_metrics": ("定位指标", "启用 `do_eval` 时，同时对评估数据做定位并记录 m_tIoU、m_vIoU 等指标。"),
    "grounding_metrics_rows": (
        "定位指标行数",
        "`grounding_metrics` 最多评估的数据行数，在每个任务中均匀选取且每次评估相同；留空则全部评估。",
    ),
    "sentences_per_video": (
        "每个视频的语句数",
        "同一视频（或图像）最多有多少数据行合并为一个训练序列：视频只计算一次，每行的权重不变。"
        "此时 `per_device_train_batch_size` 按序列计数。不能与 `instruction_first`、flash attention 或线性注意力主干同用。",
    ),
}


def install(module: ModuleType) -> None:
    """Add our elements to LLaMA-Factory's table, which must know each in all its languages."""
    languages = module.LOCALES["title"]
    english = {option.name: {"en": {"label": option.name, "info": option.help}} for option in OPTIONS}
    chinese = {name: {"zh": {"label": label, "info": info}} for name, (label, info) in CHINESE.items()}
    for name, texts in {**WORDS, **{name: english[name] | chinese.get(name, {}) for name in english}}.items():
        module.LOCALES[name] = {language: texts.get(language, texts["en"]) for language in languages}
