"""What plans may be called; it imports neither torch nor nnU-Net."""

import re

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.nnunet.names import OTHER_FILES_OF_A_DATASET


def check_plans_name(plans_name: str, option: str) -> None:
    """Raises UserError unless plans of this name, which the option gave, can be a file and part of a folder's name."""
    if not re.fullmatch(r"[^\W_]([\w.-]*[^\W_])?", plans_name) or "__" in plans_name:
        raise UserError(
            f"{option} {plans_name!r}: the plans become a file and part of a folder's name, which nnU-Net splits at "
            "__: letters, digits, '-', '.' and single '_' between them"
        )
    if plans_name.endswith(".json"):
        raise UserError(f"{option} {plans_name!r}: give the name without its ending, {plans_name[: -len('.json')]}")
    if plans_name in OTHER_FILES_OF_A_DATASET:
        raise UserError(f"{option} {plans_name!r}: {plans_name}.json is another file of nnU-Net's, beside the plans")
