// SPDX-License-Identifier: GPL-2.0-only
#include <kunit/test.h>
#include <linux/gfp.h>
#include <linux/pfn_t.h>

static const u64 all_flags[] = {
	PFN_SG_CHAIN, PFN_SG_LAST, PFN_DEV, PFN_MAP, PFN_SPECIAL,
};

/* The highest page frame that a physical address can name. */
static const unsigned long highest_pfn = PHYS_PFN(PHYS_ADDR_MAX);

/* System memory always has one; the tests only look at its struct page. */
static struct page *get_ram_page(struct kunit *test)
{
	void *addr = kunit_kzalloc(test, PAGE_SIZE, GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, addr);
	return virt_to_page(addr);
}

static unsigned long get_pfn_without_page(struct kunit *test)
{
	unsigned long pfn = highest_pfn;

	if (pfn_valid(pfn))
		kunit_skip(test, "the highest pfn has a page");
	return pfn;
}

static void expect_pfn(struct kunit *test, pfn_t pfn, unsigned long bare,
		       u64 flags)
{
	KUNIT_EXPECT_EQ(test, pfn_t_to_pfn(pfn), bare);
	KUNIT_EXPECT_EQ(test, pfn_t_to_phys(pfn), PFN_PHYS(bare));
	KUNIT_EXPECT_EQ(test, pfn_t_flags(pfn), flags);
}

static void expect_page(struct kunit *test, pfn_t pfn, struct page *page)
{
	KUNIT_EXPECT_EQ(test, pfn_t_has_page(pfn), !!page);
	KUNIT_EXPECT_PTR_EQ(test, pfn_t_to_page(pfn), page);
}

static void flags_are_distinct(struct kunit *test)
{
	u64 seen = 0;
	int i;

	for (i = 0; i < ARRAY_SIZE(all_flags); i++) {
		KUNIT_EXPECT_EQ(test, hweight64(all_flags[i]), 1);
		KUNIT_EXPECT_EQ(test, all_flags[i] & seen, 0);
		seen |= all_flags[i];
	}
	KUNIT_EXPECT_EQ(test, seen, PFN_FLAGS_MASK);

	/* Leave room for every page frame there can be. */
	KUNIT_EXPECT_EQ(test, highest_pfn & PFN_FLAGS_MASK, 0);
}

/* Every set of flags on the lowest, some, and the highest pfn. */
static void round_trip(struct kunit *test)
{
	const unsigned long pfns[] = { 0, 1, 0x12345, highest_pfn };
	unsigned int set;
	int i;

	for (i = 0; i < ARRAY_SIZE(pfns); i++) {
		for (set = 0; set < 1 << ARRAY_SIZE(all_flags); set++) {
			u64 flags = 0;
			int bit;

			for (bit = 0; bit < ARRAY_SIZE(all_flags); bit++)
				if (set & BIT(bit))
					flags |= all_flags[bit];

			expect_pfn(test, pfn_to_pfn_t_flags(pfns[i], flags),
				   pfns[i], flags);
			expect_pfn(test, phys_to_pfn_t(PFN_PHYS(pfns[i]), flags),
				   pfns[i], flags);
		}
		expect_pfn(test, pfn_to_pfn_t(pfns[i]), pfns[i], 0);
	}
}

static void phys_offset_is_dropped(struct kunit *test)
{
	expect_pfn(test, phys_to_pfn_t(PFN_PHYS(1) - 1, PFN_DEV), 0, PFN_DEV);
	expect_pfn(test, phys_to_pfn_t(PFN_PHYS(1) + 1, PFN_DEV), 1, PFN_DEV);
	expect_pfn(test, phys_to_pfn_t(PHYS_ADDR_MAX, PFN_DEV), highest_pfn,
		   PFN_DEV);
}

static void predicates(struct kunit *test)
{
	static const struct {
		u64 flags;
		bool devmap, raw, special;
	} cases[] = {
		{ 0,				  false, false, false },
		{ PFN_DEV,			  false, true,  false },
		{ PFN_MAP,			  false, false, false },
		{ PFN_SPECIAL,			  false, false, true },
		{ PFN_DEV | PFN_MAP,		  true,  false, false },
		{ PFN_DEV | PFN_SPECIAL,	  false, true,  true },
		{ PFN_MAP | PFN_SPECIAL,	  false, false, true },
		{ PFN_DEV | PFN_MAP | PFN_SPECIAL, true,  false, true },
	};
	int i;

	/* The table's bookkeeping and the pfn make no difference. */
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		pfn_t pfns[] = {
			pfn_to_pfn_t_flags(0, cases[i].flags),
			pfn_to_pfn_t_flags(highest_pfn, cases[i].flags),
			pfn_to_pfn_t_flags(1, cases[i].flags | PFN_SG_CHAIN),
			pfn_to_pfn_t_flags(1, cases[i].flags | PFN_SG_LAST),
		};
		int j;

		for (j = 0; j < ARRAY_SIZE(pfns); j++) {
			KUNIT_EXPECT_EQ(test, pfn_t_devmap(pfns[j]),
					cases[i].devmap);
			KUNIT_EXPECT_EQ(test, pfn_t_raw(pfns[j]), cases[i].raw);
			KUNIT_EXPECT_EQ(test, pfn_t_special(pfns[j]),
					cases[i].special);
		}
	}
}

static void ram_has_page(struct kunit *test)
{
	struct page *page = get_ram_page(test);
	unsigned long pfn = page_to_pfn(page);

	expect_pfn(test, page_to_pfn_t(page), pfn, PFN_MAP);
	expect_page(test, page_to_pfn_t(page), page);

	expect_page(test, pfn_to_pfn_t(pfn), page);
	expect_page(test, phys_to_pfn_t(page_to_phys(page), 0), page);
	expect_page(test, pfn_to_pfn_t_flags(pfn, PFN_MAP), page);
	expect_page(test, pfn_to_pfn_t_flags(pfn, PFN_SPECIAL), page);
}

/* Nobody asks pfn_valid() once a driver has spoken, in either direction. */
static void driver_overrules_pfn_valid(struct kunit *test)
{
	struct page *page = get_ram_page(test);
	unsigned long pfn = page_to_pfn(page);
	pfn_t mapped;

	KUNIT_ASSERT_TRUE(test, pfn_valid(pfn));
	expect_page(test, pfn_to_pfn_t_flags(pfn, PFN_DEV), NULL);
	expect_page(test, pfn_to_pfn_t_flags(pfn, PFN_DEV | PFN_SPECIAL), NULL);
	expect_page(test, pfn_to_pfn_t_flags(pfn, PFN_DEV | PFN_MAP), page);

	pfn = get_pfn_without_page(test);
	mapped = pfn_to_pfn_t_flags(pfn, PFN_DEV | PFN_MAP);
	KUNIT_EXPECT_TRUE(test, pfn_t_has_page(mapped));
	mapped = pfn_to_pfn_t_flags(pfn, PFN_MAP);
	KUNIT_EXPECT_TRUE(test, pfn_t_has_page(mapped));
}

static void no_page(struct kunit *test)
{
	unsigned long pfn = get_pfn_without_page(test);

	expect_page(test, pfn_to_pfn_t(pfn), NULL);
	expect_page(test, pfn_to_pfn_t_flags(pfn, PFN_SPECIAL), NULL);
	expect_page(test, pfn_to_pfn_t_flags(pfn, PFN_DEV), NULL);
}

/* What does not fit is dropped, and does not spill into the other half. */
static void flags_that_do_not_fit(struct kunit *test)
{
	const int warnings = IS_ENABLED(CONFIG_DEBUG_VM) ? 3 : 0;

	kunit_warning_suppress(test) {
		expect_pfn(test, pfn_to_pfn_t_flags(1, PFN_DEV | BIT_ULL(58)),
			   1, PFN_DEV);
		expect_pfn(test, pfn_to_pfn_t_flags(1, ~PFN_FLAGS_MASK), 1, 0);
		expect_pfn(test, phys_to_pfn_t(PFN_PHYS(1), PFN_MAP | 2),
			   1, PFN_MAP);
		if (IS_ENABLED(CONFIG_GENERIC_BUG))
			KUNIT_EXPECT_SUPPRESSED_WARNING_COUNT(test, warnings);
	}
}

static void pfn_that_does_not_fit(struct kunit *test)
{
	const int warnings = IS_ENABLED(CONFIG_DEBUG_VM) ? 3 : 0;

	if (BITS_PER_LONG == 32)
		kunit_skip(test, "an unsigned long always fits");

	kunit_warning_suppress(test) {
		unsigned long fits = ~0UL & ~PFN_FLAGS_MASK;

		expect_pfn(test, pfn_to_pfn_t(~0UL), fits, 0);
		expect_pfn(test, pfn_to_pfn_t_flags(~0UL, PFN_DEV), fits,
			   PFN_DEV);
		KUNIT_EXPECT_FALSE(test, pfn_t_has_page(pfn_to_pfn_t(~0UL)));
		if (IS_ENABLED(CONFIG_GENERIC_BUG))
			KUNIT_EXPECT_SUPPRESSED_WARNING_COUNT(test, warnings);
	}
}

static struct kunit_case pfn_t_test_cases[] = {
	KUNIT_CASE(flags_are_distinct),
	KUNIT_CASE(round_trip),
	KUNIT_CASE(phys_offset_is_dropped),
	KUNIT_CASE(predicates),
	KUNIT_CASE(ram_has_page),
	KUNIT_CASE(driver_overrules_pfn_valid),
	KUNIT_CASE(no_page),
	KUNIT_CASE(flags_that_do_not_fit),
	KUNIT_CASE(pfn_that_does_not_fit),
	{}
};

static struct kunit_suite pfn_t_test_suite = {
	.name = "pfn_t",
	.test_cases = pfn_t_test_cases,
};

kunit_test_suite(pfn_t_test_suite);

MODULE_DESCRIPTION("Tests for pfn_t");
MODULE_LICENSE("GPL");
