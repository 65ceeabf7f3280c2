"""NNoculation (Veldanda, Liu, Tan, Krishnamurthy, Khorrami, Karri, Dolan-Gavitt and Garg, AISec 2021), one file a stage."""
