#!/usr/bin/env bash
# DSVM-UNet on your own data, by nnU-Net's own commands: five folds, the best configuration, prediction, evaluation.
#
#   examples/train_and_predict.sh DATASET_ID INPUT_FOLDER OUTPUT_FOLDER [LABELS_FOLDER]
#
#   DATASET_ID     a dataset in nnU-Net's raw format under $nnUNet_raw, e.g. 27
#   INPUT_FOLDER   new scans to predict, named CASE_0000.nii.gz (or the dataset's own file ending)
#   OUTPUT_FOLDER  where the predicted label maps go
#   LABELS_FOLDER  their ground truth, if there is one: the prediction is then evaluated
#
# Optional variables: TRAINER (default nnUNetTrainerDSVM), DEVICE (cuda, cpu or mps; default cuda).
# What was interrupted is made up for; a finished fold is only validated again.
set -euo pipefail

if [ $# -lt 3 ]; then
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
dataset=$1 input=$2 output=$3 labels=${4:-}
trainer=${TRAINER:-nnUNetTrainerDSVM}
device=${DEVICE:-cuda}

name=$(cd "$nnUNet_raw" && printf '%s\n' Dataset"$(printf '%03d' "$((10#$dataset))")"_*/ | head -n 1) name=${name%/}
model=$nnUNet_results/$name/${trainer}__nnUNetPlans__2d

if [ ! -f "$nnUNet_preprocessed/$name/nnUNetPlans.json" ]; then
    nnUNetv2_plan_and_preprocess -d "$dataset" -c 2d --verify_dataset_integrity
fi
# nnU-Net trains on the cases that are preprocessed, however few: where some are missing, it was interrupted.
cases=$(python3 -c 'import json, sys; print(len(json.load(open(sys.argv[1]))["spacings"]))' \
    "$nnUNet_preprocessed/$name/dataset_fingerprint.json")
preprocessed=("$nnUNet_preprocessed/$name/nnUNetPlans_2d"/*.pkl)
if [ "${#preprocessed[@]}" -lt "$cases" ]; then
    nnUNetv2_preprocess -d "$dataset" -c 2d
fi

for fold in 0 1 2 3 4; do
    # --npz keeps the probabilities, which nnUNetv2_find_best_configuration needs; --c continues an interrupted fold.
    nnUNetv2_train "$dataset" 2d "$fold" -tr "$trainer" -device "$device" --npz --c
done

nnUNetv2_find_best_configuration "$dataset" -c 2d -tr "$trainer"

nnUNetv2_predict -d "$dataset" -i "$input" -o "$output/raw" -c 2d -f 0 1 2 3 4 -tr "$trainer" -device "$device"
nnUNetv2_apply_postprocessing -i "$output/raw" -o "$output/postprocessed" \
    -pp_pkl_file "$model/crossval_results_folds_0_1_2_3_4/postprocessing.pkl" -np 2 \
    -plans_json "$model/crossval_results_folds_0_1_2_3_4/plans.json"

if [ -n "$labels" ]; then
    nnUNetv2_evaluate_folder "$labels" "$output/postprocessed" \
        -djfile "$model/dataset.json" -pfile "$model/plans.json" -o "$output/summary.json"
fi
