"""From a DICOM series to a segmentation of it; needs the extra `dicom`."""
