"""`audit`: do annotators differ, and can the data show it?"""
