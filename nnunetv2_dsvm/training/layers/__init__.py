"""The trainers' layers: mixins that each work on nnU-Net's trainer alone and chain by `super()`.

A trainer is a line that names its layers, a variant one override. nnU-Net's own variants and a user's trainers mix in
by inheritance, in any order: the layers give way to what a mixed-in class brings, or refuse it before training.
"""
