"""The scan in CUDA C++, compiled at run time by NVRTC, the compiler that comes with torch: no nvcc, no C compiler.

Faster than the Triton kernels where `scan.supports` says yes; the Triton kernels run everything else.
"""
