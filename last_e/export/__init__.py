"""A trained network as others run it: keypoints go in as they were recorded, and what the class is comes out."""
