#!/usr/bin/env bash
# Cross-validation: trains the folds of each trainer, evaluates them, and writes a report with the trainers side by side.
#
#   examples/five_fold.sh DATASET_ID REPORT_FOLDER
#
#   DATASET_ID     a dataset in nnU-Net's raw format under $nnUNet_raw, e.g. 27
#   REPORT_FOLDER  where report.html goes
#
# Optional variables: TRAINERS (default "nnUNetTrainerDSVM nnUNetTrainerVMUNet": the method and its control),
# FOLDS (default "0 1 2 3 4"), PLANS (default nnUNetPlans), DEVICE (cuda, cpu or mps; default cuda), PROTOCOL (isic or synapse:
# the report also shows the papers' numbers).
# Planning, preprocessing or a fold that was interrupted is made up for; a finished fold is only validated again.
set -euo pipefail

if [ $# -ne 2 ]; then
    sed -n '2,12s/^# \{0,1\}//p' "$0"
    exit 2
fi
for variable in nnUNet_raw nnUNet_preprocessed nnUNet_results; do
    case ${!variable:-} in # what nnU-Net would take as it is
        '' | [\"\'~]* | *[\"\'] | [[:space:]]* | *[[:space:]] | *\$[A-Za-z{]*)
            echo "$variable is '${!variable:-}', expected a path (no quotes, ~, \$NAME, or blanks at its ends)" >&2
            exit 1
            ;;
    esac
done
dataset=$1 report=$2
read -ra trainers <<<"${TRAINERS:-nnUNetTrainerDSVM nnUNetTrainerVMUNet}"
read -ra folds <<<"${FOLDS:-0 1 2 3 4}"
plans=${PLANS:-nnUNetPlans}
device=${DEVICE:-cuda}

name=$(cd "$nnUNet_raw" && printf '%s\n' Dataset"$(printf '%03d' "$((10#$dataset))")"_*/ | head -n 1) name=${name%/}
made=$nnUNet_preprocessed/$name/$plans.json
if [ ! -f "$made" ]; then
    case $plans in
        nnUNetPlans) nnUNetv2_plan_and_preprocess -d "$dataset" -c 2d --verify_dataset_integrity ;;
        nnUNetDSVMPlans) nnUNetv2_dsvm plan_and_preprocess -d "$dataset" -c 2d --verify_dataset_integrity ;;
        *) echo "there is no $made: make these plans first" >&2 && exit 1 ;;
    esac
fi
# nnU-Net trains on the cases that are preprocessed, however few: where some are missing, it was interrupted.
data=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["configurations"]["2d"]["data_identifier"])' "$made")
cases=$(python3 -c 'import json, sys; print(len(json.load(open(sys.argv[1]))["spacings"]))' \
    "$nnUNet_preprocessed/$name/dataset_fingerprint.json")
preprocessed=("$nnUNet_preprocessed/$name/$data"/*.pkl)
if [ "${#preprocessed[@]}" -lt "$cases" ]; then
    nnUNetv2_preprocess -d "$dataset" -c 2d -plans_name "$plans"
fi

for trainer in "${trainers[@]}"; do
    for fold in "${folds[@]}"; do
        nnUNetv2_train "$dataset" 2d "$fold" -tr "$trainer" -p "$plans" -device "$device" --c
    done
done
for protocol in nnunet ${PROTOCOL:-}; do
    nnUNetv2_dsvm evaluate -d "$dataset" -tr "${trainers[@]}" -p "$plans" -c 2d -f "${folds[@]}" --protocol "$protocol"
done
nnUNetv2_dsvm report -d "$dataset" -tr "${trainers[@]}" -p "$plans" -c 2d -f "${folds[@]}" -o "$report"
