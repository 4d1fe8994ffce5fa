-- Records segments, each whole or not at all.
--
-- ARGV: ttl in milliseconds, the total that seals the batch where this is all there is of it (or nothing), how many segments,
-- then for each segment: its JSON; its spans, 12 bytes each (page as a double, first and last bit in the page as
-- 16 bits, all little-endian); how many outcomes it has; of which status, as `status=count;`; how many others were left out
-- of it because they are known; its bands, as `band=token;`; the indices of the dead, with commas.
--
-- Gives for each segment 0 (recorded), 1 (all of it is known, and counted as such) or, where nothing was done: a negative
-- number, -1 less the total, where some of it is beyond the batch's end; the bitmap's bytes under each of its spans, where
-- some of it is known. Nothing at all for an unknown batch.
if not go_on() then
  return false
end

local SPAN = 12
local PAGE = 65536
local cursor = 0
local function take()
  cursor = cursor + 1
  return ARGV[cursor]
end

-- A hundred thousand small segments a second pass here: names that are looked up cost.
local unpack_span, each_match = struct.unpack, string.gmatch
local function span_at(packed, at)
  return unpack_span('<dI2I2', packed, at)
end

local bits_keys = {}
local function bits(page)
  local key = bits_keys[page]
  if not key then
    key = base .. 'bits:' .. whole(page)
    bits_keys[page] = key
  end
  return key
end

local function known_in(packed)
  local known = 0
  for at = 1, #packed, SPAN do
    local page, first, last = span_at(packed, at)
    if first == last then
      known = known + call('GETBIT', bits(page), first)
    else
      known = known + call('BITCOUNT', bits(page), first, last, 'BIT')
    end
  end
  return known
end

local function bytes_under(packed)
  local found = {}
  for at = 1, #packed, SPAN do
    local page, first, last = span_at(packed, at)
    found[#found + 1] = call('GETRANGE', bits(page), math.floor(first / 8), math.floor(last / 8))
  end
  return found
end

-- Sets the bits from first to last, none of which is set: whole bytes at once, what is left at either side by itself.
local function set_bits(key, first, last)
  if last - first < 32 then
    local length = last - first + 1
    call('BITFIELD', key, 'SET', 'u' .. length, first, whole(2 ^ length - 1))
    return
  end
  local whole_from, whole_to = math.ceil(first / 8), math.floor((last + 1) / 8)
  if first < whole_from * 8 then
    set_bits(key, first, whole_from * 8 - 1)
  end
  call('SETRANGE', key, whole_from, string.rep('\255', whole_to - whole_from))
  if whole_to * 8 <= last then
    set_bits(key, whole_to * 8, last)
  end
end

local pages = {}
local function mark(packed)
  for at = 1, #packed, SPAN do
    local page, first, last = span_at(packed, at)
    local key = bits(page)
    if not pages[page] then
      pages[page] = true
      call('SADD', base .. 'pages', whole(page))
    end
    if first == last then
      call('SETBIT', key, first, 1)
    else
      set_bits(key, first, last)
    end
  end
end

-- One past its last item.
local function end_of(packed)
  local page, _, last = span_at(packed, #packed - SPAN + 1)
  return page * PAGE + last + 1
end

local stream = base .. 'outcomes'
local landed = number('landed')
local total = tonumber(call('HGET', batch, 'total') or '')
local counts = {0, 0, 0, 0, 0}
local duplicates, recorded = 0, 0
local died = {} -- the indices of this call's dead
local bands = {} -- what comes to each, written at the end: many small segments share one

local function store(json, count, by_status, listed, dead)
  landed = landed + count
  recorded = recorded + count
  local id = whole(landed)
  call('XADD', stream, id .. '-0', 's', json, 'n', count)
  for band, token in each_match(listed, '(%d+)=([^;]+);') do
    local tokens = bands[band]
    if not tokens then
      tokens = {}
      bands[band] = tokens
    end
    tokens[#tokens + 1] = id .. ':' .. token
  end
  for status, of_status in each_match(by_status, '(%d)=(%d+);') do
    counts[tonumber(status) + 1] = counts[tonumber(status) + 1] + tonumber(of_status)
  end
  if dead ~= '' then
    for index in each_match(dead, '%d+') do
      call('ZADD', base .. 'dead', index, index)
      died[index] = true
    end
  end
end

local ttl, seals = take(), take()
if seals ~= '' and (landed > 0 or total and total ~= tonumber(seals)) then
  return {1}
end
local results = {}
for segment = 1, tonumber(take()) do
  local json, packed, count = take(), take(), tonumber(take())
  local by_status, dropped, listed, dead = take(), tonumber(take()), take(), take()
  local known = known_in(packed)
  if total and end_of(packed) > total then
    results[segment] = -1 - total
  elseif known == 0 then
    mark(packed)
    store(json, count, by_status, listed, dead)
    duplicates = duplicates + dropped
    results[segment] = 0
  elseif known == count then
    duplicates = duplicates + dropped + count
    results[segment] = 1
  else
    results[segment] = bytes_under(packed)
  end
end

for band, tokens in pairs(bands) do
  local before = call('HGET', base .. 'bands', band)
  local added = table.concat(tokens, ',')
  call('HSET', base .. 'bands', band, before and (before .. ',' .. added) or added)
end
for status, name in ipairs({'ok', 'failed', 'dead', 'cancelled', 'expired'}) do
  if counts[status] > 0 then
    call('HINCRBY', batch, name, whole(counts[status]))
  end
end
if duplicates > 0 then
  call('HINCRBY', batch, 'duplicates', whole(duplicates))
end
-- Those that were given another life and now have its outcome are among the dead no more, unless it was the same.
for _, index in ipairs(recorded > 0 and call('SMEMBERS', base .. 'reviving') or {}) do
  if call('GETBIT', bits(math.floor(index / PAGE)), index % PAGE) == 1 then
    call('SREM', base .. 'reviving', index)
    if not died[index] then
      call('ZREM', base .. 'dead', index)
    end
  end
end
if recorded > 0 then
  call('HSET', batch, 'landed', whole(landed))
  if seals ~= '' then
    call('HSETNX', batch, 'total', seals)
  end
  complete(ttl)
end
if recorded > 0 or duplicates > 0 then
  changed()
end
return results
