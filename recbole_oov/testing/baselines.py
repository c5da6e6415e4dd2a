"""RecBole's models that the table of failed checks is about, and why they fail what they fail."""

from __future__ import annotations

from typing import Any

BASELINES: dict[str, dict[str, Any]] = {
    # general
    "Pop": {},
    "Random": {},
    "ItemKNN": {},
    "BPR": {},
    "NeuMF": {},
    "DMF": {"epochs": 100, "learning_rate": 0.005},
    "FISM": {"reg_weights": [0.0, 0.0], "epochs": 60},
    "NAIS": {"reg_weights": [0.0, 0.0, 0.0], "epochs": 60},
    "ENMF": {"dropout_prob": 0.1, "epochs": 80},
    "LINE": {},
    "SimpleX": {},
    "LightGCN": {},
    "NGCF": {},
    "GCMC": {},
    "SpectralCF": {},
    "DGCF": {},
    "SGL": {},
    "CDAE": {},
    "MultiDAE": {},
    "MultiVAE": {},
    "MacridVAE": {"epochs": 60},
    "RecVAE": {},
    "DiffRec": {},
    "EASE": {},
    "SLIMElastic": {},
    "ADMMSLIM": {},
    "NCEPLRec": {},
    # sequential
    "FPMC": {},
    "TransRec": {},
    "HRM": {"epochs": 60},
    "NPE": {"epochs": 60},
    "SHAN": {"epochs": 60},
    "FOSSIL": {},
    "GRU4Rec": {},
    "NARM": {},
    "STAMP": {},
    "Caser": {"epochs": 60},
    "NextItNet": {},
    "SRGNN": {},
    "GCSAN": {},
    "HGN": {},
    "RepeatNet": {},
    "SASRec": {},
    "BERT4Rec": {"epochs": 100},
    "LightSANs": {},
    "SINE": {"epochs": 120},
    "CORE": {"epochs": 60},
    # context-aware
    "LR": {},
    "FM": {},
    "FFM": {},
    "FNN": {},
    "NFM": {},
    "AFM": {},
    "PNN": {},
    "WideDeep": {},
    "DeepFM": {},
    "DCN": {},
    "DCNV2": {},
    "DSSM": {},
    "KD_DAGFM": {},
    "FwFM": {},
    "AutoInt": {},
    # knowledge-aware
    "CKE": {},
    "CFKG": {},
    "KGCN": {},
    "KGNNLS": {},
    "KTUP": {},
    "MKR": {},
    "RippleNet": {},
}
"""The models by name, each with the options that it needs on the tiny data sets beside the usual ones."""

REASONS_OF_CHECKS = {
    "negative_user_is_refused": "looks the user up by indexing, where -1 is the last",
    "negative_item_is_refused": "looks the item up by indexing, where -1 is the last",
}
"""Why a check fails, where it is the same for all models that fail it and the check's own words say less."""

_OFFSETS = "adds the id to the field's place in one table of all fields, and reads another field's row"
_RANDOM_PADDING = "reads the padding item's row, which is drawn at random over the zeros of padding_idx"
_UNUSED = "inherits first-order weights that it does not use"
_ONE_ROW = "batch normalisation in training needs two rows"
_SQUEEZED = "squeezes the batch dimension away"
_OWN_TRAINER = "only its own trainer can call the loss"

REASONS: dict[tuple[str, str], str] = {
    ("Pop", "users_are_told_apart"): "popularity is the same for everyone",
    ("Random", "predict_gives_a_score_a_row"): _SQUEEZED,
    ("FISM", "predict_agrees_with_full_sort"): "predict is the sigmoid of what full_sort_predict gives",
    ("GCMC", "known_answer_is_found"): "ranks by the second of two logits without the first",
    ("GCMC", "pickle_keeps_the_scores"): "keeps a lambda",
    ("RecVAE", "loss_is_a_finite_number"): _OWN_TRAINER,
    ("MacridVAE", "scoring_draws_no_random_numbers"): "draws noise when it scores, and does not use it",
    ("ADMMSLIM", "scoring_repeats"): "adds noise to the scores, to break ties",
    ("ADMMSLIM", "scoring_draws_no_random_numbers"): "adds noise to the scores, to break ties",
    ("NCEPLRec", "one_step_changes_parameters"): "is solved in closed form, but its type says that it is trained",
    ("FPMC", "predict_gives_a_score_a_row"): _SQUEEZED,
    ("TransRec", "known_answer_is_found"): "moves by one vector a step, which cannot lead round a circle",
    ("NPE", "known_answer_is_found"): "adds the history up, without an order",
    ("NPE", "gradient_reaches_every_parameter"): "one of its three tables is never used",
    ("NPE", "padding_item_does_not_count"): _RANDOM_PADDING,
    ("NPE", "padding_width_does_not_count"): "adds up the padding items too",
    ("SHAN", "known_answer_is_found"): "full_sort_predict reads the history in the order that it was not trained on",
    ("SHAN", "predict_agrees_with_full_sort"): "predict reads the reversed history, full_sort_predict the other one",
    ("SHAN", "padding_width_does_not_count"): "takes the last places for the newest items",
    ("FOSSIL", "padding_item_does_not_count"): _RANDOM_PADDING,
    ("STAMP", "padding_item_does_not_count"): _RANDOM_PADDING,
    ("STAMP", "padding_width_does_not_count"): "attends to padding items too",
    ("Caser", "padding_item_does_not_count"): _RANDOM_PADDING,
    ("NextItNet", "padding_item_does_not_count"): _RANDOM_PADDING,
    ("NextItNet", "padding_width_does_not_count"): "reads the state at the last place, padding or not",
    ("HGN", "padding_item_does_not_count"): _RANDOM_PADDING,
    ("RepeatNet", "padding_item_does_not_count"): _RANDOM_PADDING,
    ("RepeatNet", "deep_copy_keeps_the_scores"): "keeps tensors of the last batch, with their graph",
    ("BERT4Rec", "loss_of_one_row"): "divides by the number of masked items, which may be none",
    ("BERT4Rec", "unknown_item_is_refused"): "the id after the last item's is its mask",
    ("LightSANs", "padding_item_does_not_count"): "attends to padding items: it has no mask",
    ("LightSANs", "padding_width_does_not_count"): "attends to padding items: it has no mask",
    ("SINE", "known_answer_is_found"): "learns the order slowly: recall@1 is .23 after 120 epochs",
    ("SINE", "padding_item_does_not_count"): _RANDOM_PADDING,
    ("CORE", "known_answer_is_found"): "averages the history and ranks what is like it, that is the history",
    ("CORE", "predict_agrees_with_full_sort"): "predict leaves out the temperature",
    ("LR", "gradient_reaches_every_parameter"): "inherits embeddings that it does not use",
    ("FFM", "gradient_reaches_every_parameter"): "makes embeddings for pairs of fields that it does not use",
    ("DSSM", "predict_gives_a_score_a_row"): _SQUEEZED,
    ("KD_DAGFM", "predict_gives_a_score_a_row"): "gives a column of scores, (B, 1)",
    ("KD_DAGFM", "loss_of_one_row"): "the shapes of prediction and label differ for one row",
    (
        "FwFM",
        "checkpoint_keeps_the_scores",
    ): "its field weights are no parameter: drawn at random, never trained, not saved",
    ("KTUP", "scoring_repeats"): "draws the user's preference at random when it scores, too",
    ("KTUP", "scoring_draws_no_random_numbers"): "draws the user's preference at random when it scores, too",
    ("MKR", "loss_is_a_finite_number"): _OWN_TRAINER,
    ("RippleNet", "new_user_scores_are_finite"): "has no ripple set for a user without training rows",
    ("RippleNet", "deep_copy_keeps_the_scores"): "keeps tensors of the last batch, with their graph",
    ("knowledge", "unknown_item_is_refused"): "the id after the last item's is an entity's",
    ("context", "unknown_user_is_refused"): _OFFSETS,
    ("context", "unknown_item_is_refused"): _OFFSETS,
    ("context", "negative_item_is_refused"): _OFFSETS,
    **{(name, "loss_of_one_row"): _ONE_ROW for name in ("NFM", "DCN", "DCNV2", "DSSM")},
    **{
        (name, "gradient_reaches_every_parameter"): _UNUSED
        for name in ("FNN", "PNN", "DCN", "DCNV2", "DSSM", "KD_DAGFM")
    },
}
"""Why a model, or a family of models, fails a check, in a few words."""
