"""What a segmentation is written as: DICOM SEG, RTSTRUCT, a table, a picture."""
