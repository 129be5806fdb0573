#!/usr/bin/env bash
# A paper's protocol for trainers that five_fold.sh has trained: on their validation cases and, predicted by the ensemble of
# the folds, on the test set if there is one.
#
#   examples/papers_protocol.sh PROTOCOL DATASET_ID OUTPUT_FOLDER
#
#   PROTOCOL       isic or synapse
#   DATASET_ID     as for five_fold.sh
#   OUTPUT_FOLDER  where the predictions of the test set go, a folder per trainer and folds in test/
#
# Optional variables, as for five_fold.sh: TRAINERS, FOLDS, PLANS, DEVICE.
set -euo pipefail

if [ $# -ne 3 ]; then
    sed -n '2,11s/^# \{0,1\}//p' "$0"
    exit 2
fi
protocol=$1 dataset=$2 output=$3
read -ra trainers <<<"${TRAINERS:-nnUNetTrainerDSVM nnUNetTrainerVMUNet}"
read -ra folds <<<"${FOLDS:-0 1 2 3 4}"
model=(-p "${PLANS:-nnUNetPlans}" -c 2d -f "${folds[@]}")
raw=$(compgen -G "$nnUNet_raw/Dataset$(printf '%03d' "$((10#$dataset))")_*" | head -n 1)

nnUNetv2_dsvm evaluate -d "$dataset" -tr "${trainers[@]}" "${model[@]}" --protocol "$protocol"
if [ -d "$raw/imagesTs" ]; then
    predicted=()
    for trainer in "${trainers[@]}"; do
        folder=$output/test/${trainer}_folds_$(IFS=_ && echo "${folds[*]}")
        predicted+=("$folder")
        nnUNetv2_predict -d "$dataset" -i "$raw/imagesTs" -o "$folder" -tr "$trainer" "${model[@]}" \
            -device "${DEVICE:-cuda}"
    done
    if [ -d "$raw/labelsTs" ]; then
        nnUNetv2_dsvm evaluate "$raw/labelsTs" "${predicted[@]}" --protocol "$protocol"
    fi
fi
