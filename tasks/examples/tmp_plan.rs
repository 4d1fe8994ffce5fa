#![allow(clippy::all)]
use std::time::Instant;
use rayon::prelude::*;
use tidemill_tasks::image::*;
fn main(){
 let limits=Limits::default();
 let rd=|b:&[u8]|{let h=Header::read(b,&limits).unwrap(); decode::decode(b,&h,&limits,Eighths::Eight,false).unwrap().picture};
 let psnr=|a:&picture::Picture,b:&picture::Picture|{let s:f64=a.data.iter().zip(&b.data).map(|(&x,&y)|(x as f64-y as f64).powi(2)).sum(); 10.0*(65025.0*a.data.len() as f64/s).log10()};
 let dir=std::env::args().nth(1).unwrap(); let small=std::env::args().nth(2).unwrap();
 let mut ps:Vec<_>=std::fs::read_dir(&dir).unwrap().map(|e|e.unwrap().path()).filter(|p|p.extension().is_some_and(|e|e=="jpg")).collect(); ps.sort();
 std::fs::create_dir_all("/tmp/img/ours").unwrap();
 for (k,steps) in [r#"[{"blur":15},{"thumbnail":1200}]"#,r#"[{"thumbnail":1200}]"#,r#"[{"thumbnail":256}]"#,r#"[{"blur":4},{"thumbnail":600}]"#].iter().enumerate(){
  let mut ds=vec![];
  for p in ps.iter().take(if k==0{15}else{4}){ let b=std::fs::read(p).unwrap();
   let run=|e:bool|{let pl=Plan::new(serde_json::from_str(&format!(r#"{{"steps":{steps},"format":"png","exact":{e}}}"#)).unwrap()).unwrap(); transform(&b,&pl,&limits,&||false).unwrap().bytes};
   let a=run(false); ds.push(psnr(&rd(&a),&rd(&run(true))));
   if k==0 {std::fs::write(format!("/tmp/img/ours/{}.png",p.file_stem().unwrap().to_str().unwrap()),a).unwrap();}
  }
  println!("{steps}: {:?}",ds.iter().map(|d|(d*10.).round()/10.).collect::<Vec<_>>());
 }
 let b=std::fs::read(&ps[0]).unwrap();
 for round in 0..2 { let _=round;
 let h=Header::read(&b,&limits).unwrap();
 let t=Instant::now(); let d=decode::decode(&b,&h,&limits,Eighths::One,false).unwrap(); println!("decode 1/8 {:?}",t.elapsed());
 let t=Instant::now(); let x=blur::gaussian(d.picture,(1.85,1.85),4.0).unwrap(); println!("blur {:?}",t.elapsed());
 let t=Instant::now(); let x=resize::resize(&x,resize::whole(&x),(1200,800),steps::Filter::Lanczos3).unwrap(); println!("resize {:?}",t.elapsed());
 let t=Instant::now(); encode::encode(x,Format::Jpeg,85).unwrap(); println!("encode {:?}",t.elapsed());
 let full=decode::decode(&b,&h,&limits,Eighths::Eight,false).unwrap().picture;
 let t=Instant::now(); blur::gaussian(full,(15.,15.),4.0).unwrap(); println!("blur full {:?}",t.elapsed());
 }
 let fs:Vec<_>=std::fs::read_dir(&small).unwrap().map(|e|std::fs::read(e.unwrap().path()).unwrap()).collect();
 if fs.len()>0 { for _ in 0..3 { let pr=Preparation{resize:Target::ShortSide(256),filter:steps::Filter::Bicubic,crop:Some((224,224)),channels:Order::Rgb};
  let t=Instant::now(); fs.par_iter().for_each(|f|{let mut o=vec![]; prepare(f,&pr,&limits,&mut o).unwrap();}); println!("prepare {} of 500x375: {:.0}/s on {} threads",fs.len(),fs.len() as f64/t.elapsed().as_secs_f64(),rayon::current_num_threads());
  let t=Instant::now(); fs.par_iter().for_each(|f|{let h=Header::read(f,&limits).unwrap(); decode::decode(f,&h,&limits,Eighths::Eight,false).unwrap();}); println!("decode only: {:.0}/s",fs.len() as f64/t.elapsed().as_secs_f64());
 }}
}
