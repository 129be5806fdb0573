#!/usr/bin/env bash
# Cross-validation: trains the folds of each trainer, evaluates them, and writes a report with the trainers side by side.
#
#   examples/five_fold.sh DATASET_ID REPORT_FOLDER
#
#   DATASET_ID     a dataset in nnU-Net's raw format under $nnUNet_raw, e.g. 27
#   REPORT_FOLDER  where report.html, the table results.md, logs and states go
#
# Optional variables: TRAINERS (default "nnUNetTrainerDSVM nnUNetTrainerVMUNet": the method and its control),
# FOLDS (default "0 1 2 3 4"), PLANS (default nnUNetPlans), DEVICE (cuda, cpu or mps; default cuda), PROTOCOL (isic or synapse:
# the report also shows the papers' numbers).
# On several GPUs as many folds train at a time. Called again it does what is missing; a finished fold is left alone.
set -euo pipefail

if [ $# -ne 2 ]; then
    sed -n '2,12s/^# \{0,1\}//p' "$0"
    exit 2
fi
read -ra trainers <<<"${TRAINERS:-nnUNetTrainerDSVM nnUNetTrainerVMUNet}"
read -ra folds <<<"${FOLDS:-0 1 2 3 4}"
nnUNetv2_dsvm cross_validate -d "$1" -c 2d -tr "${trainers[@]}" -f "${folds[@]}" -p "${PLANS:-nnUNetPlans}" \
    -device "${DEVICE:-cuda}" ${PROTOCOL:+--protocol "$PROTOCOL"} -o "$2"
