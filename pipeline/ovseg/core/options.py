"""The options of every step: each parameter with its type, range, default and meaning is written here and nowhere else.

A section of params.yaml, the function that does the step, and the command line all use the same model; the help of the
command line is the text under each field. Nothing heavy is imported here, so that `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, WrapValidator

from ovseg.core.files import expand_home
from ovseg.core.paths import is_url, to_path

CaptionsPerImage = Literal[1, "all"]
DistilLoss = Literal["classes", "cosine"]
Encoder = Literal["crops", "region_tokens", "biased_tokens", "pooled", "mask_adapter"]
Fill = Literal["mean", "zero", "keep"]
Invalid = Literal["keep", "boost"]
Coverage = Literal["half", "soft"]
KeptRegions = Literal["none", "candidates", "all"]
Orientation = Literal["exif", "raw"]
Loss = Literal["multi_positive", "info_nce"]
Method = Literal["crops", "text_prompts", "regions", "maft", "maskclippp", "distil", "mask_adapter"]
Metric = Literal["miou", "miou_gt"]
ModelName = Literal["base", "finetune", "prompt"]
NounUnit = Literal["token", "chunk", "phrase"]
Precision = Literal["fp32", "bf16"]
"""bf16 is computed where the device has units for it, else fp32: `core.arithmetic.data_type`."""
Psm = Literal["linear", "pseudo_text"]
RegionPairs = Literal["annotated", "proposals", "mined", "mix"]
RegionEncoder = Literal["region_tokens", "biased_tokens", "pooled", "mask_adapter"]
Rule = Literal["best", "one_to_one"]
Synonyms = Literal["max", "mean", "joined"]
Templates = Literal["none", "single", "vild"]
TrainTemplates = Literal["none", "single", "vild", "random-per-step"]
View = Literal["crop-and-mask", "crop", "mask"]

Fraction = Annotated[float, Field(ge=0, le=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
PositiveInt = Annotated[int, Field(ge=1)]
Threshold = Annotated[float, Field(gt=0, lt=1)]
FilePath = Annotated[
    Path,
    Field(strict=False),
    WrapValidator(lambda value, check: to_path(value if is_url(value) else check(value))),
    PlainSerializer(str, when_used="json"),
]
"""A path, or a URL such as s3://bucket/folder; params.yaml gives it as text. `~` is the home folder."""
NameOrPath = Annotated[str, AfterValidator(expand_home)]
"""The name of a model, or its path; `~` is the home folder."""


class Options(BaseModel):
    """The base of all options: no unknown field, no other type than the declared one, no change afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class ClipOptions(Options):
    """A pretrained CLIP, and where its weights come from."""

    model: NameOrPath
    """Name of an open_clip architecture, "local-dir:FOLDER", or "hf-hub:OWNER/NAME"."""
    pretrained: NameOrPath | None = None
    """Weights of a named architecture: a tag of open_clip, a file, or "random"; null for a folder or a repository."""
    licence: str | None = None
    """License of the weights, for the model cards."""


class CropOptions(Options):
    """The crop recipe, shared by mining, training and inference."""

    fill: Fill = "mean"
    """Background of the crops that CLIP encodes: the mean color of CLIP, black, or the image's own ("keep")."""
    antialias: bool = True
    """Whether crops are resized with antialiasing; the reference code does not."""


class ChecksOptions(Options):
    """What stops a step that has left out too much; no result depends on it."""

    max_dropped: Fraction = 0.5
    """Largest fraction of a step's items that may be dropped for one reason; a step that drops more ends in an error."""


class IndexOptions(Options):
    """Step `index`: the images and captions to mine."""

    images: FilePath
    """Folder of the images, or of WebDataset shards."""
    captions: FilePath
    """COCO Captions JSON, a table (Parquet, CSV, JSON lines, datasets), or the folder of WebDataset shards again."""
    image_column: str = "file_name"
    """Column of a table of captions that has the path of the image, or in a folder of `datasets` the image itself."""
    caption_column: str = "caption"
    """Column of a table of captions that has a caption, or a list of them."""
    id_column: str | None = None
    """Column of a table of captions that has the image's id; by default the number in its file name, or a hash of it."""
    limit: PositiveInt | None = None
    """Number of images to use, lowest ids first; all by default."""
    orientation: Orientation = "exif"
    """Whether images are turned as their EXIF orientation says, or used as stored ("raw"), for masks drawn on that."""


class NounsOptions(Options):
    """Step `nouns`: the nouns of each caption."""

    model: NameOrPath = "en_core_web_sm"
    """The spaCy pipeline: the name of an installed one, or a folder."""
    model_version: str | None = None
    """Version that the spaCy pipeline must have, such as 3.8.0; any version by default."""
    unit: NounUnit = "chunk"
    """What counts as a noun: every single one ("token"), a compound as a whole ("chunk"), or with its adjectives ("phrase")."""
    captions_per_image: CaptionsPerImage = 1
    """Captions of each image to read: the one with the lowest id (1, the paper's default), or all."""
    stop_list: FilePath | None = None
    """Text file of nouns to leave out because they name nothing visible, one per line; by default the list of ovseg."""


class ProposalNetworkOptions(Options):
    """Step `proposal_network`: MaskFormer with a text classifier, trained on a closed vocabulary (paper A.1).

    The defaults are those of the released R101c configuration.
    """

    init: FilePath | None = None
    """Folder of a trained proposal network to start from; null for new weights."""
    backbone: NameOrPath = "resnet101c.gluon_in1k"
    """Name of a timm model, or a checkpoint of transformers."""
    pretrained: bool = True
    """Whether the backbone starts from its published weights."""
    annotations: FilePath
    """Masks with class names: a COCO JSON file, or a folder of label maps with its classes.json."""
    classes: NameOrPath | None = None
    """Class table of label maps: a name (cocostuff, cocostuff156, ...) or a file; null for a JSON file."""
    licence: str | None = None
    """License of the annotations, for the model card."""
    num_queries: PositiveInt = 100
    """Number of object queries, and so of proposals per image."""
    hidden_dim: Annotated[int, Field(ge=32, multiple_of=32)] = 256
    """Width of the transformer decoder and of the mask embeddings."""
    decoder_layers: PositiveInt = 6
    """Number of layers of the transformer decoder."""
    dropout: Fraction = 0.1
    """Dropout rate of the transformer decoder."""
    text_proj_dim: PositiveInt = 1024
    """Width of the hidden layer of the projection to CLIP's text space."""
    templates: Templates = "vild"
    """Text templates of the class names."""
    steps: Natural = 120_000
    """Number of optimizer steps; 0 copies `init` unchanged."""
    batch_size: PositiveInt = 32
    """Number of images in a step, over all processes."""
    crop_size: Annotated[int, Field(ge=64)] = 512
    """Side of the square training crops, in pixels."""
    min_scale: Positive = 0.5
    """Smallest short side of an image before cropping, as a multiple of `crop_size`."""
    max_scale: Positive = 2.0
    """Largest short side of an image before cropping, as a multiple of `crop_size`."""
    color_jitter: bool = True
    """Whether colors are changed at random."""
    short_side: Annotated[int, Field(ge=64)] = 512
    """Short side that images are resized to for inference, in pixels."""
    long_side: PositiveInt = 2048
    """Largest long side for inference, in pixels."""
    lr: Positive = 2.0e-4
    """Peak learning rate of AdamW."""
    backbone_lr_multiplier: Annotated[float, Field(ge=0)] = 0.1
    """Factor on the learning rate for the backbone."""
    weight_decay: Annotated[float, Field(ge=0)] = 1.0e-4
    """Weight decay of all parameters but those of normalization layers and embeddings."""
    warmup_steps: Natural = 1500
    """Number of steps of linear warmup."""
    clip_norm: Positive = 0.01
    """Largest norm of the gradient; longer gradients are scaled down to it."""
    precision: Precision = "bf16"
    """Arithmetic of the training: float32, or bfloat16 autocast, for which a processor needs units."""
    seed: Natural = 0
    """Seed of weights, order, crops and dropout."""


class ProposeOptions(Options):
    """Step `propose`: the mask proposals of each image."""

    source: str
    """Source of the masks: a name in `proposals.sources.SOURCES`."""
    path: FilePath | None = None
    """Masks of the sources that read files."""
    model: NameOrPath | None = None
    """Checkpoint of the sources that run a model: a folder, or a name on the Hugging Face Hub."""
    annotations: FilePath | None = None
    """Annotated masks with class names to store beside the proposals, for `select.annotated_fraction`."""
    classes: NameOrPath | None = None
    """Class table of `annotations` that are label maps, a name (cocostuff156, ...) or a file; unseen classes are left out. Null
    for the classes.json beside them, or for a JSON file."""
    mask_threshold: Threshold = 0.4
    """Probability above which a pixel of a soft mask is foreground."""
    max_proposals: PositiveInt = 100
    """Largest number of proposals per image, highest scores first."""
    licence: str | None = None
    """License of the masks, annotated ones included, for the model card."""


class ScoreOptions(Options):
    """Step `score`: the similarity of nouns and proposals."""

    templates: Templates = "vild"
    """Text templates of the nouns."""
    top_k: PositiveInt = 5
    """Number of proposals kept for each noun."""
    duplicate_iou: Annotated[float, Field(gt=0, le=1)] = 1.0
    """IoU above which a mask takes the embedding of an earlier one instead of being encoded; 1 encodes all masks."""
    encoder: Encoder = "crops"
    """How proposals are encoded: by masked crops, unless the CLIP was trained for another encoder; or all in one pass."""
    start_block: Natural | None = None
    """For region tokens: number of the tower's blocks that run without them; null for two thirds."""
    coverage: Coverage = "half"
    """For region tokens: whether a region sees the patches that its mask covers by half, or all by the covered fraction."""
    image_size: PositiveInt | None = None
    """Side that a whole image is resized to, in pixels, for the encoders of one pass; null for the CLIP's own."""
    precision: Precision = "fp32"
    """Arithmetic of the encoders."""
    keep_regions: KeptRegions = "candidates"
    """Which proposals' embeddings are stored, for `select.group_outlier` and `ovseg-mine search`: of none, of those that are a
    candidate of any noun, or of all. With "all" CLIP sees no image again when nouns, templates or `top_k` change."""


class NearDuplicatesOptions(Options):
    """Step `near_duplicates`: mined images that are nearly an image of a benchmark. Both conditions must be met."""

    max_distance: Annotated[int, Field(ge=0, le=63)] = 12
    """Largest number of bits, of 63, in which the perceptual hashes of two images differ."""
    min_similarity: Annotated[float, Field(ge=-1, le=1)] = 0.85
    """Smallest cosine similarity of the two whole images by CLIP."""


class SelectOptions(Options):
    """Step `select`: the candidates that become pairs. Thresholds apply to the chosen pair: a rejected noun gets no other."""

    rule: Rule = "best"
    """How proposals are assigned: to each noun its best one (the paper's rule), or one to one within an image."""
    min_similarity: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Smallest cosine similarity of a pair; the paper has no threshold."""
    min_margin: Annotated[float, Field(ge=0, le=2)] | None = None
    """Smallest difference to the similarity of the next proposal; a last-ranked proposal has none and passes."""
    min_area: PositiveInt = 1
    """Smallest area of a mask, in pixels."""
    max_per_noun: PositiveInt | None = None
    """Largest number of pairs of one noun, highest similarities first."""
    mutual: bool = False
    """Whether a pair is left out if another noun of its image is more similar to its mask."""
    max_overlap: Fraction | None = None
    """Largest IoU between the masks of two nouns of one image; beyond it the less similar pair is left out."""
    second_candidates: FilePath | None = None
    """Candidates of another CLIP, from the same nouns and proposals; pairs that it does not confirm are left out."""
    second_rank: PositiveInt = 1
    """Number of best masks of a noun among which the other CLIP must have the pair's mask to confirm the pair."""
    group_outlier: Fraction = 0.0
    """Fraction of each noun's pairs that is left out: the regions farthest from the centre of the noun's others."""
    group_size: Annotated[int, Field(ge=2)] = 10
    """Smallest number of pairs of a noun to which `group_outlier` applies; those of rarer nouns all stay."""
    near_duplicates: FilePath | None = None
    """Folder of the table `near_duplicates`; the pairs of its images are left out, annotated ones, too."""
    annotated_fraction: Fraction = 0.0
    """Fraction of annotated masks with their class names among all pairs; 1 mines nothing."""
    exclude: FilePath | None = None
    """CSV of pairs that are left out: image_id, noun, proposal; `ovseg app` writes one of the pairs marked as wrong."""
    seed: Natural = 0
    """Seed of the order of the pairs and of the choice of annotated masks."""


class ShardsOptions(Options):
    """Step `shards`: the WebDataset files of the pairs."""

    samples_per_shard: PositiveInt = 4096
    """Largest number of samples in a shard."""
    min_shards: PositiveInt = 16
    """Smallest number of shards: a training needs at least one for each loader process of each rank."""
    background: Fill = "mean"
    """Background of the stored crops; the masks are stored beside them in any case."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 95
    """JPEG quality of the stored crops."""


class RunOptions(Options):
    """A run of all steps of mining."""

    index: IndexOptions
    """The images and captions."""
    propose: ProposeOptions
    """The mask proposals of each image."""
    clip: ClipOptions
    """The CLIP that compares nouns and proposals."""
    nouns: NounsOptions = NounsOptions()
    """The nouns of each caption."""
    score: ScoreOptions = ScoreOptions()
    """The similarity of nouns and proposals."""
    crop: CropOptions = CropOptions()
    """The crop recipe."""
    select: SelectOptions = SelectOptions()
    """The candidates that become pairs."""
    shards: ShardsOptions = ShardsOptions()
    """The WebDataset files of the pairs."""


class TrainingOptions(Options):
    """What finetuning and mask prompt tuning share."""

    shards: FilePath = Path("shards")
    """Folder of the mined shards, or its URL: those of the stage shards, or of a run of `ovseg-mine`."""
    epochs: Natural = 5
    """Number of passes over all samples; 0 copies the initial model, unchanged but for its region encoder."""
    max_steps: Natural | None = None
    """Largest number of optimizer steps; the learning rate schedule ends there, too."""
    batch_size: PositiveInt = 256
    """Number of pairs in a step, over all processes."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.2
    """Weight decay of the matrices of the image tower."""
    warmup_steps: Natural = 100
    """Number of steps of linear warmup."""
    loss: Loss = "multi_positive"
    """Contrastive loss: all pairs of the same noun are positives, or only the pair itself (InfoNCE, the paper's)."""
    templates: TrainTemplates = "vild"
    """Text templates of the nouns."""
    logit_scale: Literal["train", "fixed"] = "train"
    """Whether the temperature of the loss is trained."""
    crop_scale: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Smallest fraction of a crop's area that random cropping keeps; 1 keeps all of it."""
    precision: Precision = "bf16"
    """Arithmetic of the training: float32, or bfloat16 autocast, for which a processor needs units."""
    seed: Natural = 0
    """Seed of order, crops, templates and new mask prompts."""
    heldout_every: Natural = 0
    """Number of steps between two measurements of mask accuracy on the split of section heldout, for the curves; 0 for none."""


class FinetuneOptions(TrainingOptions):
    """Step `finetune`: CLIP's image tower on the mined pairs (paper 3.2), a region encoder, or learned text prompts."""

    init: Literal["base", "prompt"] = "base"
    """Model to start from, a folder of models/; the mask prompts of "prompt" are kept and stay fixed."""
    lr: Positive = 5.0e-6
    """Peak learning rate of the image tower, of the text prompts, or of a mask adapter that learns alone."""
    method: Method = "crops"
    """What is trained: the image tower on masked crops (the paper's); text prompts for both frozen towers (SimBaseline); or
    the image tower as a region encoder that sees the whole image once, by OVSeg's contrastive loss ("regions"), MAFT's,
    MaskCLIP++'s, or distillation from a CLIP that sees crops; or Mask-Adapter's adapter alone, for the frozen tower. For region
    encoders `batch_size` counts images."""
    pairs: RegionPairs = "mined"
    """What region encoders are trained on: annotated masks, proposals matched to them, mined pairs, or "mix" of annotated
    masks and mined pairs."""
    region_encoder: RegionEncoder = "region_tokens"
    """The region encoder that is trained: region tokens under a mask (MAFT), or with a learned bias (MaskCLIP++); for ConvNeXt
    towers the mean of the last map over the mask ("pooled"); or learned maps that weigh all of the image ("mask_adapter")."""
    start_block: Natural = 8
    """Number of blocks that run without regions, for region tokens."""
    coverage: Coverage = "half"
    """Whether a region token sees the patches that its mask covers by half (MAFT), or each in proportion to the fraction that
    is covered ("soft"); for "region_tokens"."""
    image_size: PositiveInt = 480
    """Side that whole images are resized to, in pixels; a multiple of the patch size, or of 32 for ConvNeXt towers."""
    adapter_width: PositiveInt = 768
    """Width of the blocks of a new mask adapter; one that the initial model has is trained on as it is."""
    teacher: FilePath | None = None
    """Folder of a CLIP finetuned on crops that a region encoder is distilled from; null for none."""
    distil_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of a distillation beside the loss of the method: from the teacher, or MAFT's self-distillation."""
    distil_loss: DistilLoss = "classes"
    """What is distilled from the teacher: its vectors ("cosine", which needs no text), or its probabilities of all nouns."""
    psm: Psm = "linear"
    """How "maskclippp" makes a score of a region and a class: by learned weights of the templates ("linear"), or by a text that
    attends to the image ("pseudo_text": MaskCLIP++ with ConvNeXt towers, for the region encoder "pooled")."""
    scale_lr: Positive | None = None
    """Peak learning rate of the logit scale, and of what is learned beside the tower: biases, adapters, the PSM; null for
    `lr`."""

    @property
    def psm_problem(self) -> str | None:
        """Why `psm` is not for the method or the region encoder, with a remedy; None if it is."""
        if self.psm == "linear" or (self.method, self.region_encoder) == ("maskclippp", "pooled"):
            return None
        return (
            f"finetune.psm={self.psm} is for finetune.method=maskclippp and finetune.region_encoder=pooled, not for "
            f"{self.method} and {self.region_encoder}; set it to linear"
        )


REGION_FIELDS = frozenset(
    (
        "pairs",
        "region_encoder",
        "start_block",
        "coverage",
        "image_size",
        "adapter_width",
        "teacher",
        "distil_weight",
        "distil_loss",
        "psm",
        "scale_lr",
    )
)
"""The fields of `FinetuneOptions` that are of region encoders alone."""


class PromptOptions(TrainingOptions):
    """Step `prompt`: mask prompt tuning (paper 3.3)."""

    init: Literal["base", "finetune"] = "finetune"
    """Model to start from, a folder of models/."""
    lr: Positive = 2.0e-2
    """Peak learning rate of the mask prompts."""
    tower_lr: Positive | None = None
    """Peak learning rate of the image tower, to train both at once; null keeps the tower fixed."""
    depth: PositiveInt = 3
    """Number of transformer layers that have mask prompts, the first ones."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of the matrices of the image tower."""
    logit_scale: Literal["train", "fixed"] = "fixed"
    """Whether the temperature of the loss is trained."""


class HeldoutOptions(Options):
    """The annotated masks, used by no training, that models are measured on."""

    images: FilePath
    """Folder of the images."""
    annotations: FilePath
    """COCO instances or panoptic JSON file."""
    limit: PositiveInt | None = None
    """Number of images to use, in the order of the annotations; all by default."""
    orientation: Orientation = "exif"
    """Whether images are turned as their EXIF orientation says, or used as stored ("raw"), for masks drawn on that."""
    templates: Templates = "vild"
    """Text templates of the class names."""


class SegmentOptions(Options):
    """How an image is segmented, by the steps `calibrate` and `evaluate` and by `ovseg segment`."""

    view: View = "crop-and-mask"
    """What CLIP is given of a proposal: its masked crop, or one of ZegFormer's variants, the crop or the masked image."""
    templates: Templates = "vild"
    """Text templates of the class names."""
    synonyms: Synonyms = "max"
    """How the names of one class are combined: the best of their scores, their mean (ZegFormer), or all as one text."""
    weight_seen: Fraction | None = None
    """Weight of CLIP in the ensemble for classes seen in training (SimBaseline, ZegFormer); null for one weight for all."""
    average_seen: bool = False
    """Whether CLIP ranks only unseen classes, as in ZegFormer."""
    seen_penalty: Fraction = 0.0
    """What is subtracted from the score maps of seen classes (gamma of ZegFormer)."""
    no_object_in_clip: bool = False
    """Whether the proposal network's logit of "no object" takes part in the softmax of CLIP's logits, as in ZegFormer."""
    invalid: Invalid = "keep"
    """What the ensemble gives a mask without a pixel: the network's probabilities, or more, as if CLIP were sure of every class
    ("boost": OVSeg's and SimBaseline's code)."""
    precision: Precision = "fp32"
    """Arithmetic of CLIP."""
    network_precision: Precision = "fp32"
    """Arithmetic of the proposal network; bf16 changes up to a percent of the pixels of its masks."""


class CalibrateOptions(Options):
    """Step `calibrate`: the ensemble weight and the mask threshold, chosen on a held-out split."""

    benchmark: FilePath
    """Folder of the held-out split in the benchmark layout."""
    limit: PositiveInt | None = None
    """Number of images to use, in the order of the benchmark; all by default."""
    weights: Annotated[list[Fraction], Field(min_length=1)] = [w / 10 for w in range(11)]
    """Weights of CLIP in the ensemble to try."""
    thresholds: Annotated[list[Threshold], Field(min_length=1)] = [0.3, 0.4, 0.5]
    """Mask thresholds to try."""
    metric: Metric = "miou"
    """Metric to maximize."""


class EvaluateOptions(Options):
    """Step `evaluate`: the benchmarks and the models to compare on them."""

    folder: FilePath
    """Folder of the benchmarks."""
    benchmarks: Annotated[list[str], Field(min_length=1)]
    """Names of the benchmarks: subfolders of `folder`."""
    models: Annotated[list[ModelName], Field(min_length=1)] = ["base", "finetune", "prompt"]
    """CLIP models to compare, folders of models/; the last one is the result."""
    weight: Fraction | None = None
    """Weight of CLIP in the ensemble; null for the one that `calibrate` chose for each model."""
    mask_threshold: Threshold | None = None
    """Probability above which a pixel of a soft mask is foreground; null for the one that `calibrate` chose."""
    limit: PositiveInt | None = None
    """Number of images of each benchmark to use; all by default."""
    missing: Literal["error", "allow"] = "error"
    """Whether images or labels that cannot be read are an error, or are left out."""


class ReportOptions(Options):
    """Step `report`: what is shown of a run."""

    annotations: FilePath
    """COCO instances or panoptic JSON whose masks and class names the mined pairs are compared with."""
    pairs: PositiveInt = 300
    """Number of pairs in the pair browser."""
    benchmark: str
    """Name of the benchmark, one of `evaluate.benchmarks`, that is shown class by class and with overlays."""
    images: PositiveInt = 8
    """Number of images in each gallery of the page: some at equal distances in the benchmark, and those with the lowest IoU."""
    near_duplicates: FilePath | None = None
    """Folder of the table `near_duplicates`, to be counted and shown beside the table of zero-shot classes."""
