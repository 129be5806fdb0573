#!/usr/bin/env bash
# The test set, predicted by trainers that five_fold.sh has trained (the ensemble of the folds), and measured by a paper's
# protocol if its labels are there.
#
#   examples/test_set.sh PROTOCOL DATASET_ID OUTPUT_FOLDER
#
#   PROTOCOL       nnunet, isic or synapse
#   DATASET_ID     as for five_fold.sh
#   OUTPUT_FOLDER  where the predictions go, a folder per trainer and folds in test/
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

if [ ! -d "$raw/imagesTs" ]; then
    echo "$raw has no imagesTs: there is no test set to predict"
    exit
fi
predicted=()
for trainer in "${trainers[@]}"; do
    folder=$output/test/${trainer}_folds_$(IFS=_ && echo "${folds[*]}")
    predicted+=("$folder")
    nnUNetv2_predict -d "$dataset" -i "$raw/imagesTs" -o "$folder" -tr "$trainer" "${model[@]}" -device "${DEVICE:-cuda}"
done
if [ -d "$raw/labelsTs" ]; then
    nnUNetv2_dsvm evaluate "$raw/labelsTs" "${predicted[@]}" --protocol "$protocol"
fi
