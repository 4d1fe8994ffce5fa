-- ARGV: `input` or `completion`, the place before which nothing is needed, items a band.
-- Gives 1, or nothing for an unknown batch.
if call('EXISTS', batch) == 0 then
  return false
end
local before, band_size = tonumber(ARGV[2]), tonumber(ARGV[3])

-- Drops the entries that end in this band, and the band.
local function drop_band(band)
  local tokens = call('HGET', base .. 'bands', band)
  for id, ends in string.gmatch(tokens or '', '(%d+):[%d-]+(%+?)') do
    if ends == '' then
      call('XDEL', base .. 'outcomes', id .. '-0')
    end
  end
  call('HDEL', base .. 'bands', band)
end

if ARGV[1] == 'completion' then
  before = math.min(before, number('landed'))
  if before > number('forgotten_completion') then
    call('HSET', batch, 'forgotten_completion', whole(before))
    call('XTRIM', base .. 'outcomes', 'MINID', whole(before + 1) .. '-0')
  end
elseif before > number('forgotten_input') then
  call('HSET', batch, 'forgotten_input', whole(before))
  for _, band in ipairs(call('HKEYS', base .. 'bands')) do
    if (tonumber(band) + 1) * band_size <= before then
      drop_band(band)
    end
  end
end
return 1
