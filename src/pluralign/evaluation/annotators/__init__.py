"""Do annotators agree, and how do they differ?"""
