#!/usr/bin/env bash
# Cross-validation: trains the folds of each trainer, evaluates them, and writes a report with the trainers side by side.
#
#   examples/five_fold.sh DATASET_ID REPORT_FOLDER
#
#   DATASET_ID     a dataset in nnU-Net's raw format under $nnUNet_raw, e.g. 27
#   REPORT_FOLDER  where report.html goes
#
# Optional variables: TRAINERS (default "nnUNetTrainerDSVM nnUNetTrainerVMUNet": the method and its control),
# FOLDS (default "0 1 2 3 4"), PLANS (default nnUNetPlans), DEVICE (cuda, cpu or mps; default cuda).
# A fold that was interrupted is continued; a finished one is only validated again.
set -euo pipefail

if [ $# -ne 2 ]; then
    sed -n '2,11s/^# \{0,1\}//p' "$0"
    exit 2
fi
for variable in nnUNet_raw nnUNet_preprocessed nnUNet_results; do
    if [ -z "${!variable:-}" ]; then
        echo "$variable is not set: see nnU-Net's documentation/setting_up_paths.md" >&2
        exit 1
    fi
done
dataset=$1 report=$2
read -ra trainers <<<"${TRAINERS:-nnUNetTrainerDSVM nnUNetTrainerVMUNet}"
read -ra folds <<<"${FOLDS:-0 1 2 3 4}"
plans=${PLANS:-nnUNetPlans}
device=${DEVICE:-cuda}

name=$(cd "$nnUNet_raw" && printf '%s\n' Dataset"$(printf '%03d' "$((10#$dataset))")"_* | head -n 1)
if [ ! -f "$nnUNet_preprocessed/$name/$plans.json" ]; then
    nnUNetv2_plan_and_preprocess -d "$dataset" -c 2d --verify_dataset_integrity
fi

for trainer in "${trainers[@]}"; do
    for fold in "${folds[@]}"; do
        nnUNetv2_train "$dataset" 2d "$fold" -tr "$trainer" -p "$plans" -device "$device" --c
    done
done
nnUNetv2_dsvm evaluate -d "$dataset" -tr "${trainers[@]}" -p "$plans" -c 2d -f "${folds[@]}"
nnUNetv2_dsvm report -d "$dataset" -tr "${trainers[@]}" -p "$plans" -c 2d -f "${folds[@]}" -o "$report"
