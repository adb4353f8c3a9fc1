# %% [markdown]
"""# custom_paro"""

# %%
print(1)
