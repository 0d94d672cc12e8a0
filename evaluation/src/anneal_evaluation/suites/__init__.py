"""What models are asked: problems of many formats, how each is put, and what of an answer is kept."""
