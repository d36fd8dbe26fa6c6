#!/bin/bash
# A night's batch on SLURM without a scheduler of our own: every task runs the same command. A task
# takes the next slide that no living task holds; one that is killed loses its slide to the others.
#
#   sbatch slurm_array.sh /project/slides /project/results
#
# Slides and results must lie on a file system that every node sees.
#SBATCH --job-name=lymphinfer
#SBATCH --array=1-8
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --output=lymphinfer-%A-%a.log

set -euo pipefail
slides=${1:?usage: sbatch slurm_array.sh SLIDES RESULTS}
results=${2:?usage: sbatch slurm_array.sh SLIDES RESULTS}

lymphinfer doctor --out "$results" || true
# Exit code 1: some slides failed, and stand in batch.csv with their reasons.
lymphinfer predict "$slides" --out "$results" \
    --device cuda --precision bf16 --workers "${SLURM_CPUS_PER_TASK:-4}" --slide-timeout 14400
